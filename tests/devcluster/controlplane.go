package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
`

// credentials writes the certificate authority, everyone's certificates, and the admin's kubeconfig.
func (r *rig) credentials() error {
	if err := os.RemoveAll(r.path("pki")); err != nil {
		return err
	}
	p, err := newPKI(r.path("pki"))
	if err != nil {
		return err
	}
	r.pki = p
	addresses := []net.IP{net.ParseIP(r.address), net.ParseIP(serviceAddress(r.slot)), net.IPv4(127, 0, 0, 1)}
	names := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	if err := p.issue("apiserver", "kube-apiserver", "", addresses, names...); err != nil {
		return err
	}
	for _, who := range []struct{ name, commonName, organization string }{
		{"admin", "devcluster-admin", "system:masters"},
		{"apiserver-kubelet", "kube-apiserver-kubelet-client", "system:masters"},
		{"controller-manager", "system:kube-controller-manager", ""},
		{"scheduler", "system:kube-scheduler", ""},
		{"service-accounts", "service-accounts", ""},
	} {
		if err := p.issue(who.name, who.commonName, who.organization, nil); err != nil {
			return err
		}
	}
	for name, file := range map[string]string{
		"admin":              r.state.Kubeconfig,
		"controller-manager": r.path("pki", "controller-manager.kubeconfig"),
		"scheduler":          r.path("pki", "scheduler.kubeconfig"),
	} {
		if err := r.writeKubeconfig(name, file); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) writeKubeconfig(name, file string) error {
	var parts [3][]byte
	for i, from := range []string{r.pki.crt("ca"), r.pki.crt(name), r.pki.keyFile(name)} {
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		parts[i] = data
	}
	return writeFile(file, kubeconfig("https://"+r.hostPort(portAPIServer), parts[0], parts[1], parts[2]), 0o600)
}

func (r *rig) controlPlane(ctx context.Context) error {
	if err := writeFile(r.path("audit-policy.yaml"), []byte(auditPolicy), 0o644); err != nil {
		return err
	}
	for _, stale := range []string{r.path("etcd"), r.path("audit.log")} {
		if err := os.RemoveAll(stale); err != nil {
			return err
		}
	}
	etcd, server := r.etcd(), r.apiServer()
	if err := r.launch(etcd, server); err != nil {
		return err
	}
	client, err := newKube("https://"+r.hostPort(portAPIServer), r.pki)
	if err != nil {
		return err
	}
	r.kube = client
	if err := waitFor(ctx, time.Minute, "the API server (see "+r.logPath("kube-apiserver")+")", func() error {
		return errors.Join(etcd.hopeless(), server.hopeless(), client.get(ctx, "/readyz", nil))
	}); err != nil {
		return err
	}
	return r.launch(r.controllers(), r.scheduler())
}

func (r *rig) etcd() *service {
	client := "http://" + hostPort(loopbackAddress(r.slot), portEtcd)
	peer := "http://" + hostPort(loopbackAddress(r.slot), portEtcdPeer)
	return r.service("etcd", "kubernetes", "etcd",
		"--name=devcluster", "--data-dir="+r.path("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=devcluster="+peer)
}

func (r *rig) apiServer() *service {
	p := r.pki
	return r.service("kube-apiserver", "kubernetes", "kube-apiserver",
		"--etcd-servers=http://"+hostPort(loopbackAddress(r.slot), portEtcd),
		"--bind-address="+r.address, "--advertise-address="+r.address, fmt.Sprintf("--secure-port=%d", portAPIServer),
		// There is one API server and no kube-proxy: nobody needs the endpoints of the service `kubernetes`.
		"--endpoint-reconciler-type=none",
		"--service-cluster-ip-range="+serviceCIDR(r.slot),
		"--tls-cert-file="+p.crt("apiserver"), "--tls-private-key-file="+p.keyFile("apiserver"),
		"--client-ca-file="+p.crt("ca"),
		"--kubelet-client-certificate="+p.crt("apiserver-kubelet"), "--kubelet-client-key="+p.keyFile("apiserver-kubelet"),
		"--kubelet-certificate-authority="+p.crt("ca"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+p.crt("service-accounts"), "--service-account-signing-key-file="+p.keyFile("service-accounts"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--audit-policy-file="+r.path("audit-policy.yaml"), "--audit-log-path="+r.path("audit.log"), "--audit-log-format=json",
		"--profiling=false")
}

func (r *rig) controllers() *service {
	config := r.path("pki", "controller-manager.kubeconfig")
	return r.service("kube-controller-manager", "kubernetes", "kube-controller-manager",
		"--kubeconfig="+config, "--authentication-kubeconfig="+config, "--authorization-kubeconfig="+config,
		"--bind-address="+r.address, fmt.Sprintf("--secure-port=%d", portControllers),
		"--leader-elect=false", "--use-service-account-credentials=true", "--allocate-node-cidrs=false",
		"--root-ca-file="+r.pki.crt("ca"), "--service-account-private-key-file="+r.pki.keyFile("service-accounts"),
		// It makes this directory, by default one in /usr.
		"--flex-volume-plugin-dir="+r.path("etcd", "flex-volume-plugins"),
		"--node-monitor-period=1s", "--node-monitor-grace-period=20s",
		"--kube-api-qps=200", "--kube-api-burst=400", "--concurrent-job-syncs=20", "--profiling=false")
}

func (r *rig) scheduler() *service {
	config := r.path("pki", "scheduler.kubeconfig")
	return r.service("kube-scheduler", "kubernetes", "kube-scheduler",
		"--kubeconfig="+config, "--authentication-kubeconfig="+config, "--authorization-kubeconfig="+config,
		"--bind-address="+r.address, fmt.Sprintf("--secure-port=%d", portScheduler),
		"--leader-elect=false", "--profiling=false")
}

// permanent is an error that waiting does not cure.
type permanent struct{ error }

// waitFor tries until it works or cannot work any more; the last failure is the error.
func waitFor(ctx context.Context, limit time.Duration, what string, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := try()
		if err == nil || errors.As(err, new(permanent)) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s: %w", limit, what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
