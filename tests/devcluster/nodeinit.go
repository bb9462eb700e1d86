package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// nodeInit is the first process of a node: it lays out the node's file system, starts containerd and the kubelet,
// starts them again when they end, and reaps what containers leave behind.
func nodeInit(opts options) error {
	if os.Getpid() != 1 || len(opts.args) != 1 {
		return fmt.Errorf("node-init is started by the supervisor, in a process namespace of its own")
	}
	data, err := os.ReadFile(opts.args[0])
	if err != nil {
		return err
	}
	var n node
	if err := json.Unmarshal(data, &n); err != nil {
		return err
	}
	if err := n.mounts(); err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	os.Setenv("PATH", insideBin+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	os.Unsetenv("XDG_RUNTIME_DIR")

	init := &reaper{running: map[int]chan struct{}{}}
	go init.keep("containerd", insideBin+"/containerd", "--config", insideEtc+"/containerd.toml")
	for !exists(criSocket) {
		time.Sleep(20 * time.Millisecond)
	}
	go init.keep("kubelet", insideBin+"/kubelet",
		"--config="+insideEtc+"/kubelet.json", "--kubeconfig="+insideEtc+"/kubeconfig",
		"--root-dir="+kubeletDir, "--cert-dir="+kubeletDir+"/pki",
		"--hostname-override="+n.Name, "--node-ip="+n.Address, "--node-labels="+n.labels())
	init.loop()
	return nil
}

// labels are those that the kubelet gives its node beside the usual ones.
func (n *node) labels() string {
	if n.ReservedFor == "" {
		return ""
	}
	return reservedFor + "=" + n.ReservedFor
}

// mounts hides the host's /var/lib, /var/log and /run behind the node's own, so that everything runs at its usual
// path, nodes do not meet, and nothing is left on the host.
func (n *node) mounts() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	resolv := hiddenResolv()
	lib := filepath.Join(n.Dir, "lib")
	for _, bind := range [][2]string{{n.BinDir, filepath.Join(lib, "devcluster/bin")}, {lib, "/var/lib"}, {n.LogDir, "/var/log"}} {
		if err := syscall.Mount(bind[0], bind[1], "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s to %s: %w", bind[0], bind[1], err)
		}
	}
	if err := syscall.Mount("devcluster", "/run", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for path, data := range resolv {
		if err := writeFile(path, data, 0o644); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/run/containerd", "/run/netns", "/run/lock", "/var/log/pods", "/var/log/containers"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

// hiddenResolv saves /etc/resolv.conf where it points into /run.
func hiddenResolv() map[string][]byte {
	real, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil || !strings.HasPrefix(real, "/run/") {
		return nil
	}
	data, err := os.ReadFile(real)
	if err != nil {
		return nil
	}
	return map[string][]byte{real: data}
}

// reaper starts children and waits for every process of the namespace, its own or adopted.
type reaper struct {
	mu      sync.Mutex
	running map[int]chan struct{}
}

func (r *reaper) keep(name string, argv ...string) {
	for ; ; time.Sleep(restartDelay) {
		ended, err := r.start(name, argv)
		if err != nil {
			fmt.Fprintf(os.Stderr, "start %s: %v\n", name, err)
			continue
		}
		<-ended
		fmt.Fprintf(os.Stderr, "%s ended by itself; starting it again\n", name)
	}
}

func (r *reaper) start(name string, argv []string) (<-chan struct{}, error) {
	out, err := os.OpenFile("/var/log/"+name+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{null.Fd(), out.Fd(), out.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	r.running[pid] = ended
	return ended, nil
}

func (r *reaper) loop() {
	for {
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		if err != nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		r.mu.Lock()
		if ended := r.running[pid]; ended != nil {
			close(ended)
			delete(r.running, pid)
		}
		r.mu.Unlock()
	}
}
