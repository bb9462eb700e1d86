// Command health says of Kubernetes objects what GitOps tools make of their status.
//
//	health kstatus         as kstatus computes it: Flux, Helm, kpt
//	health argocd SCRIPT   as Argo CD does with a custom health check
//
// It reads objects as JSON, one after the other, and prints for each {"status": …, "message": …} on a line.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type health struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "health:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	judge, err := judgeOf(args)
	if err != nil {
		return err
	}
	objects, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		// Its own decoder: integers stay integers, as in a client of the API server.
		var raw json.RawMessage
		if err := objects.Decode(&raw); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(raw); err != nil {
			return err
		}
		said, err := judge(object)
		if err != nil {
			return fmt.Errorf("%s: %w", object.GetName(), err)
		}
		if err := answers.Encode(said); err != nil {
			return err
		}
	}
}

func judgeOf(args []string) (func(*unstructured.Unstructured) (health, error), error) {
	switch {
	case len(args) == 1 && args[0] == "kstatus":
		return kstatus, nil
	case len(args) == 2 && args[0] == "argocd":
		script, err := os.ReadFile(args[1])
		return argoCD(string(script)), err
	}
	return nil, errors.New("usage: health kstatus | health argocd SCRIPT")
}

func kstatus(object *unstructured.Unstructured) (health, error) {
	result, err := status.Compute(object)
	if err != nil {
		return health{}, err
	}
	return health{result.Status.String(), result.Message}, nil
}
