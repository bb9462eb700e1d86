package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// node is one real node: a process and mount namespace of its own, in which containerd and a kubelet run. Killing
// its first process makes the kernel end everything in it, containers included, and drop all its mounts.
type node struct {
	Name    string `json:"name"`
	Arch    string `json:"arch"`
	Index   int    `json:"index"`
	Dir     string `json:"dir"`    // host: the node's disk
	LogDir  string `json:"logDir"` // host: seen as /var/log
	BinDir  string `json:"binDir"` // host: seen as insideBin
	Address string `json:"address"`
	Resolv  string `json:"resolv"`
	// ReservedFor is the value of a label and a taint that the node comes with; none if empty.
	ReservedFor string `json:"reservedFor"`
	service     *service
}

// What a node sees of the rig; short, fixed paths, since Unix sockets allow 108 bytes.
const (
	insideRig  = "/var/lib/devcluster"
	insideBin  = insideRig + "/bin"
	insideEtc  = insideRig + "/etc"
	kubeletDir = "/var/lib/kubelet"
	criSocket  = "/run/containerd/containerd.sock"
)

// reservedFor is the key of the label and the taint of a node that is somebody's own.
const reservedFor = "devcluster/reserved-for"

func (r *rig) newNode(name, arch, reservedFor string, index int) (*node, error) {
	n := &node{
		Name: name, Arch: arch, ReservedFor: reservedFor, Index: index, Address: r.address,
		Dir: r.path("nodes", name), LogDir: r.path("logs", name), BinDir: r.state.BinDir,
	}
	for _, dir := range []string{"lib/devcluster/bin", "lib/devcluster/etc", "lib/containerd", "lib/kubelet", "lib/cni"} {
		if err := os.MkdirAll(filepath.Join(n.Dir, dir), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.RemoveAll(n.LogDir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(n.LogDir, 0o755); err != nil {
		return nil, err
	}
	if err := r.nodeCredentials(n); err != nil {
		return nil, err
	}
	files := map[string][]byte{
		"containerd.toml":            r.containerdConfig(n),
		"cni/10-devcluster.conflist": cniConfig(r.slot, index),
	}
	for _, host := range []string{r.state.Registry, r.state.PrivateRegistry.Host, r.state.ReadOnlyRegistry.Host} {
		files["certs.d/"+host+"/hosts.toml"] = fmt.Appendf(nil, "server = \"http://%[1]s\"\n[host.\"http://%[1]s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", host)
	}
	kubelet, err := json.MarshalIndent(r.kubeletConfig(n), "", "  ")
	if err != nil {
		return nil, err
	}
	files["kubelet.json"] = kubelet
	for name, data := range files {
		if err := writeFile(n.etc(name), data, 0o600); err != nil {
			return nil, err
		}
	}
	if err := makeCgroup(r.slot, name); err != nil {
		return nil, err
	}
	spec, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(n.Dir, "node.json")
	if err := writeFile(file, spec, 0o600); err != nil {
		return nil, err
	}
	n.service = r.service(name, "devcluster", "node-init", file)
	n.service.flags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
	return n, nil
}

// etc is a file that the node sees below insideEtc.
func (n *node) etc(name string) string { return filepath.Join(n.Dir, "lib/devcluster/etc", name) }

func (r *rig) nodeCredentials(n *node) error {
	if err := r.pki.issue(n.Name, "system:node:"+n.Name, "system:nodes", []net.IP{net.ParseIP(n.Address)}, n.Name); err != nil {
		return err
	}
	for from, to := range map[string]string{r.pki.crt(n.Name): "kubelet.crt", r.pki.keyFile(n.Name): "kubelet.key", r.pki.crt("ca"): "ca.crt"} {
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := writeFile(n.etc(to), data, 0o600); err != nil {
			return err
		}
	}
	return r.writeKubeconfig(n.Name, n.etc("kubeconfig"))
}

func (r *rig) kubeletConfig(n *node) object {
	resolv := "/etc/resolv.conf"
	if _, err := os.Stat(resolv); err != nil {
		resolv = ""
	}
	taints := []object{}
	if n.ReservedFor != "" {
		taints = append(taints, object{"key": reservedFor, "value": n.ReservedFor, "effect": "NoSchedule"})
	}
	return object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"registerWithTaints": taints,
		"address":            n.Address, "port": portKubelet + n.Index, "readOnlyPort": 0, "healthzPort": 0,
		"tlsCertFile": insideEtc + "/kubelet.crt", "tlsPrivateKeyFile": insideEtc + "/kubelet.key",
		"authentication": object{
			"anonymous": object{"enabled": false}, "webhook": object{"enabled": true},
			"x509": object{"clientCAFile": insideEtc + "/ca.crt"},
		},
		"authorization":            object{"mode": "Webhook"},
		"containerRuntimeEndpoint": "unix://" + criSocket,
		"resolvConf":               resolv,
		// Nobody answers there: a name fails at once instead of after a resolver's timeout, and pods get no warning.
		"clusterDNS": []string{n.Address}, "clusterDomain": "cluster.local",
		"cgroupDriver": "cgroupfs", "cgroupRoot": cgroupPath(r.slot, n.Name), "failCgroupV1": false,
		"failSwapOn": false, "makeIPTablesUtilChains": false, "oomScoreAdj": 0,
		"volumePluginDir":     kubeletDir + "/volume-plugins",
		"serializeImagePulls": false, "registryPullQPS": 0, "eventRecordQPS": 0,
		"kubeAPIQPS": 100, "kubeAPIBurst": 200,
		// Other work fills the machine's disk; a rig must not evict for that.
		"evictionHard":                object{"memory.available": "50Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%"},
		"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		// Problems are reported quickly; a healthy node writes rarely, which keeps watches quiet.
		"nodeStatusUpdateFrequency": "1s", "volumeStatsAggPeriod": "5s", "nodeStatusReportFrequency": "5m", "nodeLeaseDurationSeconds": 20,
		"logging": object{"verbosity": 1},
	}
}

func (r *rig) containerdConfig(n *node) []byte {
	snapshotter := "overlayfs"
	var fs unix.Statfs_t
	if unix.Statfs(n.Dir, &fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		snapshotter = "native" // an overlay cannot lie on an overlay
	}
	return fmt.Appendf(nil, `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
address = "%[1]s"

[plugins."io.containerd.internal.v1.opt"]
path = "%[2]s/opt"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "%[3]s"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "%[4]s"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "%[5]s/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
conf_dir = "%[5]s/cni"
use_internal_loopback = true
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "%[6]s/runc"
SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri"]
stream_server_address = "%[7]s"
stream_server_port = "0"
`, criSocket, insideRig, snapshotter, r.state.image("pause:1"), insideEtc, insideBin, n.Address)
}

func cniConfig(slot, index int) []byte {
	config := object{
		"cniVersion": "1.0.0", "name": "devcluster",
		"plugins": []any{object{
			"type": "bridge", "bridge": bridgeName(slot, index),
			// No masquerading: what pods talk to is on this machine.
			"isGateway": true, "ipMasq": false, "hairpinMode": true,
			"ipam": object{
				"type": "host-local", "dataDir": "/var/lib/cni/networks",
				"ranges": []any{[]any{object{"subnet": podCIDR(slot, index)}}},
				"routes": []any{object{"dst": "0.0.0.0/0"}},
			},
		}},
	}
	data, _ := json.MarshalIndent(config, "", "  ")
	return data
}

// addNode starts a node; awaitNode then waits until it is Ready. One that is reserved comes with a taint, so that
// nothing else has ever run on it. One in the place of another has its name.
func (r *rig) addNode(arch, reservedFor, inPlaceOf string) (*node, error) {
	if !archPattern.MatchString(arch) {
		return nil, fmt.Errorf("%q is no architecture: give it as Go does, such as s390x", arch)
	}
	if err := r.host.emulate(arch); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	name, index := r.freeNode(arch)
	if index < 0 {
		return nil, fmt.Errorf("the rig has %d nodes already, which is the limit", maxNodes)
	}
	if inPlaceOf != "" {
		if r.nodes[inPlaceOf] != nil {
			return nil, fmt.Errorf("node %s is still there", inPlaceOf)
		}
		name = inPlaceOf
	}
	n, err := r.newNode(name, arch, reservedFor, index)
	if err == nil {
		err = n.service.start()
	}
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", name, err)
	}
	r.nodes[name] = n
	return n, nil
}

func (r *rig) awaitNode(ctx context.Context, n *node) error {
	what := fmt.Sprintf("node %s (see %s)", n.Name, n.LogDir)
	return waitFor(ctx, 2*time.Minute, what, func() error {
		return errors.Join(n.service.hopeless(), r.kube.nodeReady(ctx, n.Name, n.Arch))
	})
}

// freeNode names the next node of an architecture: node-s390x, node-s390x-2, … A name is never used again: Kubernetes takes
// the pods of a node that went for the namesake's, which fails them.
func (r *rig) freeNode(arch string) (string, int) {
	used := map[int]bool{}
	for _, n := range r.nodes {
		used[n.Index] = true
	}
	r.named[arch]++
	name := "node-" + arch
	if count := r.named[arch]; count > 1 {
		name += "-" + strconv.Itoa(count)
	}
	for index := range maxNodes {
		if !used[index] {
			return name, index
		}
	}
	return name, -1
}

// removeNode takes a node away as a cloud does: the machine is gone, and so is its Node.
func (r *rig) removeNode(ctx context.Context, name string) error {
	r.mu.Lock()
	n := r.nodes[name]
	r.mu.Unlock()
	if n == nil {
		return fmt.Errorf("no node %q; `devcluster status` lists them", name)
	}
	n.service.stop(syscall.SIGKILL, time.Second)
	err := r.kube.do(ctx, http.MethodDelete, "/api/v1/nodes/"+name, "", nil, nil)
	removeCgroup(r.slot, name)
	removeBridge(bridgeName(r.slot, n.Index))
	r.mu.Lock()
	delete(r.nodes, name)
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return os.RemoveAll(n.Dir)
}
