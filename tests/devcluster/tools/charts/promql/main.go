// Command promql reads expressions of Prometheus, one a line, and prints for each which metrics and labels it asks for,
// as JSON. It fails at the first that Prometheus does not understand.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

type selector struct {
	Metric string   `json:"metric"`
	Labels []string `json:"labels"`
}

func main() {
	output := json.NewEncoder(os.Stdout)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		expression, err := parser.ParseExpr(lines.Text())
		if err != nil {
			fmt.Fprintf(os.Stderr, "promql: %s: %v\n", lines.Text(), err)
			os.Exit(1)
		}
		selectors := []selector{}
		parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
			if vector, is := node.(*parser.VectorSelector); is {
				selectors = append(selectors, of(vector))
			}
			return nil
		})
		if err := output.Encode(selectors); err != nil {
			os.Exit(1)
		}
	}
}

func of(vector *parser.VectorSelector) selector {
	found := selector{Metric: vector.Name, Labels: []string{}}
	for _, matcher := range vector.LabelMatchers {
		if matcher.Name != labels.MetricName {
			found.Labels = append(found.Labels, matcher.Name)
		}
	}
	return found
}
