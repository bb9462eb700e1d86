package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// kube is the little of a Kubernetes client that the rig itself needs.
type kube struct {
	server string
	client *http.Client
}

func newKube(server string, p *pki) (*kube, error) {
	ca, err := os.ReadFile(p.crt("ca"))
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(p.crt("admin"), p.keyFile("admin"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}}
	return &kube{server: server, client: &http.Client{Transport: transport, Timeout: 10 * time.Second}}, nil
}

func (k *kube) get(ctx context.Context, path string, into any) error {
	return k.do(ctx, http.MethodGet, path, "", nil, into)
}

func (k *kube) apply(ctx context.Context, path string, object any) error {
	return k.do(ctx, http.MethodPatch, path+"?fieldManager=devcluster&force=true", "application/apply-patch+yaml", object, nil)
}

func (k *kube) do(ctx context.Context, method, path, contentType string, body, into any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	if body == nil {
		data = nil
	}
	request, err := http.NewRequestWithContext(ctx, method, k.server+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "devcluster")
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := k.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, strings.TrimSpace(string(answer)))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

type object = map[string]any

// nodeArchPolicy makes a node be of the architecture its name says. A kubelet reports the machine's own one, and
// rewrites the label when it registers, so the API server has to set it.
func (k *kube) nodeArchPolicy(ctx context.Context) error {
	const name = "devcluster-node-arch"
	const admission = "/apis/admissionregistration.k8s.io/v1/"
	arch := `object.metadata.name.split("-")[1]`
	err := k.apply(ctx, admission+"mutatingadmissionpolicies/"+name, object{
		"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
		"metadata": object{"name": name},
		"spec": object{
			"failurePolicy": "Fail", "reinvocationPolicy": "Never",
			"matchConstraints": object{"resourceRules": []any{object{
				"apiGroups": []string{""}, "apiVersions": []string{"v1"},
				"operations": []string{"CREATE", "UPDATE"}, "resources": []string{"nodes", "nodes/status"},
			}}},
			"matchConditions": []any{object{"name": "named-by-the-rig", "expression": `object.metadata.name.matches("^node-[a-z0-9]+(-[0-9]+)?$")`}},
			"mutations": []any{object{
				"patchType": "ApplyConfiguration",
				"applyConfiguration": object{"expression": fmt.Sprintf(
					`Object{metadata: Object.metadata{labels: {"kubernetes.io/arch": %[1]s, "beta.kubernetes.io/arch": %[1]s}}}`, arch)},
			}},
		},
	})
	if err != nil {
		return err
	}
	return k.apply(ctx, admission+"mutatingadmissionpolicybindings/"+name, object{
		"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
		"metadata": object{"name": name},
		"spec":     object{"policyName": name},
	})
}

// nodeReady touches the node until the policy has set its architecture, and tells whether the kubelet is Ready.
func (k *kube) nodeReady(ctx context.Context, name, arch string) error {
	var node struct {
		Metadata struct {
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
		Status struct {
			Conditions []struct{ Type, Status, Message string } `json:"conditions"`
		} `json:"status"`
	}
	path := "/api/v1/nodes/" + name
	if err := k.get(ctx, path, &node); err != nil {
		return err
	}
	if got := node.Metadata.Labels["kubernetes.io/arch"]; got != arch {
		touch := object{"metadata": object{"annotations": object{"devcluster/touched": time.Now().Format(time.RFC3339Nano)}}}
		if err := k.do(ctx, http.MethodPatch, path, "application/merge-patch+json", touch, nil); err != nil {
			return err
		}
		return fmt.Errorf("node %s is labelled %q, not yet %q", name, got, arch)
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == "Ready" {
			if condition.Status == "True" {
				return nil
			}
			return fmt.Errorf("node %s is not Ready: %s", name, condition.Message)
		}
	}
	return fmt.Errorf("node %s has reported nothing yet", name)
}
