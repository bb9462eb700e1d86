// Command promlint reads metrics in the text format of OpenMetrics as Prometheus does, with its own parser, and prints
// what Prometheus' conventions find fault with, a line each. It fails if there is anything.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"google.golang.org/protobuf/proto"
)

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		fail(err)
	}
	families, err := parse(text)
	if err != nil {
		fail(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		fail(err)
	}
	for _, problem := range problems {
		fmt.Printf("%s: %s\n", problem.Metric, problem.Text)
	}
	if len(problems) > 0 {
		os.Exit(1)
	}
}

func fail(err error) {
	fmt.Println(err)
	os.Exit(1)
}

// parse gives the families under the names that the linter knows: those of counters with their ending.
func parse(text []byte) ([]*dto.MetricFamily, error) {
	parser := textparse.NewOpenMetricsParser(text, labels.NewSymbolTable())
	var families []*dto.MetricFamily
	byName := map[string]*dto.MetricFamily{}
	family := func(name []byte) *dto.MetricFamily {
		if known := byName[string(name)]; known != nil {
			return known
		}
		made := &dto.MetricFamily{Name: new(string(name)), Type: dto.MetricType_UNTYPED.Enum()}
		byName[string(name)] = made
		families = append(families, made)
		return made
	}
	seen := map[string]bool{}
	for {
		entry, err := parser.Next()
		if errors.Is(err, io.EOF) {
			return families, nil
		}
		if err != nil {
			return nil, err
		}
		switch entry {
		case textparse.EntryType:
			name, kind := parser.Type()
			described := family(name)
			described.Type = typeOf(kind).Enum()
			if kind == model.MetricTypeCounter {
				described.Name = new(string(name) + "_total")
				byName[*described.Name] = described
			}
		case textparse.EntryHelp:
			name, help := parser.Help()
			family(name).Help = new(string(help))
		case textparse.EntryUnit:
			name, unit := parser.Unit()
			family(name).Unit = new(string(unit))
		case textparse.EntrySeries:
			var of labels.Labels
			parser.Labels(&of)
			if seen[of.String()] {
				return nil, fmt.Errorf("%s is there twice", of)
			}
			seen[of.String()] = true
			owner := owner(byName, of.Get(model.MetricNameLabel))
			if owner == nil {
				return nil, fmt.Errorf("%s has no type", of)
			}
			// All series of a histogram with the same labels are one metric.
			if metric := metric(owner.GetType(), of); !has(owner, metric) {
				owner.Metric = append(owner.Metric, metric)
			}
		}
	}
}

// owner is the family of a series.
func owner(families map[string]*dto.MetricFamily, series string) *dto.MetricFamily {
	if family := families[series]; family != nil {
		return family
	}
	for _, ending := range []string{"_bucket", "_sum", "_count"} {
		if name, cut := strings.CutSuffix(series, ending); cut && families[name].GetType() == dto.MetricType_HISTOGRAM {
			return families[name]
		}
	}
	return nil
}

func has(family *dto.MetricFamily, metric *dto.Metric) bool {
	return slices.ContainsFunc(family.Metric, func(other *dto.Metric) bool { return proto.Equal(other, metric) })
}

func metric(kind dto.MetricType, of labels.Labels) *dto.Metric {
	metric := &dto.Metric{}
	of.Range(func(label labels.Label) {
		isBucket := kind == dto.MetricType_HISTOGRAM && label.Name == model.BucketLabel
		if label.Name != model.MetricNameLabel && !isBucket {
			metric.Label = append(metric.Label, &dto.LabelPair{Name: new(label.Name), Value: new(label.Value)})
		}
	})
	switch kind {
	case dto.MetricType_COUNTER:
		metric.Counter = &dto.Counter{}
	case dto.MetricType_GAUGE:
		metric.Gauge = &dto.Gauge{}
	case dto.MetricType_HISTOGRAM:
		metric.Histogram = &dto.Histogram{}
	default:
		metric.Untyped = &dto.Untyped{}
	}
	return metric
}

func typeOf(kind model.MetricType) dto.MetricType {
	switch kind {
	case model.MetricTypeCounter:
		return dto.MetricType_COUNTER
	case model.MetricTypeGauge:
		return dto.MetricType_GAUGE
	case model.MetricTypeHistogram:
		return dto.MetricType_HISTOGRAM
	default:
		return dto.MetricType_UNTYPED
	}
}
