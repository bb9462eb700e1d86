package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// rig is the running cluster, inside the supervisor.
type rig struct {
	dir      string
	slot     int
	slotLock *os.File
	address  string
	host     *host
	pki      *pki
	kube     *kube
	spawner  *spawner
	progress *progress

	mu       sync.Mutex
	state    state
	services []*service
	servers  []*http.Server
	closers  []func()
	nodes    map[string]*node
	named    map[string]int // nodes added so far, by architecture

	fluxLock     sync.Mutex
	fluxServices []*service
}

func (s *state) image(name string) string { return s.Registry + "/devcluster/" + name }

// newRig takes a slot and cleans up after whoever had it before.
func newRig(dir, tier string, p *progress) (*rig, error) {
	machine, err := machineDir()
	if err != nil {
		return nil, err
	}
	slot, lock, err := takeSlot(machine, func(slot int) error {
		if tier == tierNodes {
			if err := (&host{machine, slot}).restore(); err != nil {
				return err
			}
			return portsFree(loopbackAddress(slot), portEtcd, portEtcdPeer)
		}
		return portsFree(loopbackAddress(slot), portEtcd, portEtcdPeer, portGit, portGitHTTPS, portGitSSH, portRegistry, portPrivateRegistry, portReadOnlyRegistry, portAPIServer, portControllers, portScheduler)
	})
	if err != nil {
		return nil, err
	}
	r := &rig{
		dir: dir, slot: slot, slotLock: lock, address: loopbackAddress(slot),
		host: &host{machine, slot}, spawner: newSpawner(), progress: p, nodes: map[string]*node{}, named: map[string]int{},
	}
	if tier == tierNodes {
		r.address = nodesAddress(slot)
	}
	r.state = state{
		Tier: tier, Slot: slot, Address: r.address, Dir: dir,
		Kubeconfig: r.path("kubeconfig"), Kubectl: r.path("bin", "kubectl"), BinDir: r.path("bin"),
		Git: gitState{URL: "http://" + r.hostPort(portGit), Root: r.path("git")},
	}
	return r, nil
}

func portsFree(address string, ports ...int) error {
	for _, port := range ports {
		listener, err := net.Listen("tcp", hostPort(address, port))
		if err != nil {
			return err
		}
		listener.Close()
	}
	return nil
}

func (r *rig) hostPort(port int) string { return hostPort(r.address, port) }

func (r *rig) logPath(name string) string { return r.path("logs", name+".log") }

// service describes a process of the rig; one with the name of a program in binDir and its arguments.
func (r *rig) service(name, program string, args ...string) *service {
	return &service{
		name: name, path: filepath.Join(r.state.BinDir, program), args: args, dir: r.dir,
		log: r.logPath(name), spawner: r.spawner, notify: r.progress.say,
	}
}

func (r *rig) launch(services ...*service) error {
	for _, s := range services {
		os.Remove(s.log)
		if err := s.start(); err != nil {
			return err
		}
		r.mu.Lock()
		r.services = append(r.services, s)
		r.mu.Unlock()
	}
	return nil
}

// start brings everything up, what does not depend on each other at once.
func (r *rig) start(ctx context.Context) error {
	if r.state.Tier == tierNodes {
		if err := r.host.prepare(); err != nil {
			return err
		}
	}
	if err := r.credentials(); err != nil {
		return err
	}
	registries, err := r.registries()
	if err != nil {
		return err
	}
	if err := r.launch(registries...); err != nil {
		return err
	}
	if err := r.serveOwn(); err != nil {
		return err
	}
	err = together(
		func() error {
			return r.progress.step("start etcd, API server, controller manager, scheduler", nil, func() error { return r.controlPlane(ctx) })
		},
		func() error {
			return r.progress.step("fill the registry", nil, func() error { return r.pushImages(ctx) })
		},
	)
	if err != nil || r.state.Tier != tierNodes {
		return err
	}
	if err := r.kube.nodeArchPolicy(ctx); err != nil {
		return err
	}
	// The registry has images for all of these, which any node runs.
	for _, arch := range busyboxArches {
		if err := r.host.emulate(arch); err != nil {
			return err
		}
	}
	var starts []func() error
	for _, arch := range firstNodes() {
		n, err := r.addNode(arch, "", "")
		if err != nil {
			return err
		}
		starts = append(starts, func() error {
			return r.progress.step("start "+n.Name, nil, func() error { return r.awaitNode(ctx, n) })
		})
	}
	return together(starts...)
}

// firstNodes is the machine's own architecture and an emulated one.
func firstNodes() []string {
	if runtime.GOARCH == "arm64" {
		return []string{"arm64", "amd64"}
	}
	return []string{runtime.GOARCH, "arm64"}
}

func together(work ...func() error) error {
	errs := make([]error, len(work))
	var group sync.WaitGroup
	for i, one := range work {
		group.Go(func() { errs[i] = one() })
	}
	group.Wait()
	return errors.Join(errs...)
}

// serveOwn starts what the supervisor serves itself.
func (r *rig) serveOwn() error {
	if err := r.startGit(); err != nil {
		return err
	}
	if err := r.serve(portReadOnlyRegistry, readOnlyProxy(r.state.Registry), nil); err != nil {
		return err
	}
	if r.state.Tier != tierNodes {
		return nil
	}
	// The address in every pod's KUBERNETES_SERVICE_HOST, without kube-proxy.
	listener, err := net.Listen("tcp", hostPort(serviceAddress(r.slot), 443))
	if err != nil {
		return err
	}
	r.closers = append(r.closers, func() { listener.Close() })
	go forward(listener, r.hostPort(portAPIServer))
	return nil
}

// serve answers at a port of the rig's address; over TLS if there is a configuration for it.
func (r *rig) serve(port int, handler http.Handler, config *tls.Config) error {
	listener, err := net.Listen("tcp", r.hostPort(port))
	if err != nil {
		return err
	}
	if config != nil {
		listener = tls.NewListener(listener, config)
	}
	server := &http.Server{Handler: handler}
	r.servers = append(r.servers, server)
	go server.Serve(listener)
	return nil
}

// snapshot is the state as it is now.
func (r *rig) snapshot() state {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state
	s.Pids = map[string]int{"supervisor": os.Getpid()}
	for _, service := range r.services {
		s.Pids[service.name] = service.pid()
	}
	s.Nodes = []nodeState{}
	for index := range maxNodes {
		for _, n := range r.nodes {
			if n.Index == index {
				s.Nodes = append(s.Nodes, nodeState{n.Name, n.Arch})
				s.Pids[n.Name] = n.service.pid()
			}
		}
	}
	return s
}

// stop ends everything and leaves the machine as it was.
func (r *rig) stop() error {
	r.mu.Lock()
	nodes, services := r.nodes, r.services
	r.mu.Unlock()
	var group sync.WaitGroup
	for _, n := range nodes {
		group.Go(func() { n.service.stop(syscall.SIGKILL, time.Second) })
	}
	group.Wait()
	// What they would do in a graceful end is for clusters that go on.
	for _, s := range services {
		group.Go(func() { s.stop(syscall.SIGKILL, time.Second) })
	}
	for _, server := range r.servers {
		server.Close()
	}
	for _, closer := range r.closers {
		closer()
	}
	group.Wait()
	var err error
	if r.state.Tier == tierNodes {
		err = r.host.restore()
	}
	err = errors.Join(err, removeData(r.dir))
	releaseSlot(r.host.machineDir, r.slot, r.slotLock)
	removeMachineDir(r.host.machineDir)
	return err
}

// removeData removes what a rig wrote for its run; programs, logs and the audit log stay for whoever looks.
func removeData(dir string) error {
	var errs []error
	for _, name := range []string{"nodes", "etcd", "registry", "flux", "git", "gitconfig", "git-ssh", "pki", "kubeconfig", "audit-policy.yaml", socketName, "rig.json"} {
		path := filepath.Join(dir, name)
		if name == "nodes" {
			if err := unmounted(path); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}

func removeMachineDir(dir string) {
	os.Remove(filepath.Join(dir, "host.lock"))
	os.Remove(dir) // only if no other rig is there
}

// wrapKubectl writes a kubectl that talks to this rig unless KUBECONFIG says otherwise.
func wrapKubectl(dir string) error {
	script := fmt.Sprintf("#!/bin/sh\nexport KUBECONFIG=\"${KUBECONFIG:-%s}\"\nexec '%s' kubectl \"$@\"\n", filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "bin", "kubernetes"))
	path := filepath.Join(dir, "bin", "kubectl")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := writeFile(path, []byte(script), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"} {
		link := filepath.Join(dir, "bin", name)
		if target, err := os.Readlink(link); err == nil && target == "kubernetes" {
			continue
		}
		os.Remove(link)
		if err := os.Symlink("kubernetes", link); err != nil {
			return err
		}
	}
	return nil
}
