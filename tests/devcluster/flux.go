package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// flux are the two controllers that apply what lies in a git repository. One module, so that what they share is
// compiled once.
var flux = tool{module: "gitops", programs: map[string]string{
	"source-controller":    "github.com/fluxcd/source-controller",
	"kustomize-controller": "github.com/fluxcd/kustomize-controller",
}}

// fluxUp adds Flux to a rig that is up: its resources, from the modules of the controllers, and the controllers.
func fluxUp(opts options) error {
	p := newProgress(os.Stderr, opts.verbose)
	if _, err := prepareExtra(opts, "source-controller"); err != nil {
		return err
	}
	source, err := sourceDir()
	if err != nil {
		return err
	}
	list := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", flux.programs["source-controller"], flux.programs["kustomize-controller"])
	list.Dir, list.Stderr = filepath.Join(source, "tools", flux.module), os.Stderr
	modules, err := list.Output()
	if err != nil {
		return fmt.Errorf("go list in %s: %w", list.Dir, err)
	}
	apply := []string{"apply", "--server-side", "--force-conflicts", "--field-manager=devcluster"}
	for _, module := range strings.Fields(string(modules)) {
		apply = append(apply, "--filename="+filepath.Join(module, "config", "crd", "bases"))
	}
	if said, err := exec.Command(filepath.Join(opts.dir, "bin", "kubectl"), apply...).CombinedOutput(); err != nil {
		return fmt.Errorf("the resources of Flux are not accepted: %w\n%s", err, said)
	}
	return p.step("start the controllers of Flux", nil, func() error {
		return call(opts.dir, http.MethodPost, "/flux", nil, &report{})
	})
}

// startFlux runs the controllers, once, and returns when both say that they are ready.
func (r *rig) startFlux(ctx context.Context) error {
	r.fluxLock.Lock()
	defer r.fluxLock.Unlock()
	if len(r.fluxServices) == 0 {
		artifacts := r.hostPort(portFluxArtifacts)
		// Flux does not run in the cluster here: no leader to elect, nobody who takes its events.
		common := []string{"--watch-all-namespaces", "--enable-leader-election=false", "--metrics-addr=0", "--log-encoding=console"}
		sources := r.service("source-controller", "source-controller", append(common,
			"--health-addr="+r.hostPort(portFluxSources), "--storage-path="+r.path("flux"),
			"--storage-addr="+artifacts, "--storage-adv-addr="+artifacts)...)
		kustomize := r.service("kustomize-controller", "kustomize-controller", append(common,
			"--health-addr="+r.hostPort(portFluxKustomize), "--requeue-dependency=1s")...)
		if err := os.MkdirAll(r.path("flux"), 0o755); err != nil {
			return err
		}
		r.fluxServices = []*service{sources, kustomize}
		for _, s := range r.fluxServices {
			s.env = append(s.env, "KUBECONFIG="+r.state.Kubeconfig, "RUNTIME_NAMESPACE=flux-system")
		}
		if err := r.launch(r.fluxServices...); err != nil {
			return err
		}
	}
	for i, port := range []int{portFluxSources, portFluxKustomize} {
		s := r.fluxServices[i]
		err := waitFor(ctx, time.Minute, s.name, func() error {
			if err := s.hopeless(); err != nil {
				return err
			}
			return healthz("http://" + r.hostPort(port) + "/readyz")
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func healthz(url string) error {
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}
