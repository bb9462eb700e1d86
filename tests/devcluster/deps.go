package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// need is something the machine must have, and the Debian package that brings it.
type need struct {
	pkg   string
	why   string
	nodes bool // only nodes need it
	there func() bool
}

func program(name string) func() bool {
	return func() bool { _, err := exec.LookPath(name); return err == nil }
}

func anyFile(patterns ...string) func() bool {
	return func() bool {
		return slices.ContainsFunc(patterns, func(pattern string) bool {
			found, _ := filepath.Glob(pattern)
			return len(found) > 0
		})
	}
}

var needs = []need{
	{"git", "serves the git repositories", false, anyFile("/usr/lib/git-core/git-http-backend", "/usr/libexec/git-core/git-http-backend")},
	{"ca-certificates", "goes into the builder image", true, anyFile("/etc/ssl/certs/ca-certificates.crt")},
	{"containernetworking-plugins", "connects pods", true, anyFile("/usr/lib/cni/bridge", "/opt/cni/bin/bridge")},
	{"gcc", "builds runc", true, program("gcc")},
	{"iproute2", "makes the rig's addresses", true, program("ip")},
	{"libc6-dev", "builds runc", true, anyFile("/usr/lib/*/libc.a", "/usr/lib/libc.a")},
	{"libseccomp-dev", "builds runc", true, anyFile("/usr/lib/*/pkgconfig/libseccomp.pc", "/usr/lib*/pkgconfig/libseccomp.pc", "/usr/share/pkgconfig/libseccomp.pc")},
	{"openssh-client", "goes into the builder image", true, program("ssh")},
	{"pkg-config", "builds runc", true, program("pkg-config")},
	{"qemu-user-static", "runs other architectures' programs", true, anyFile("/usr/bin/qemu-aarch64-static")},
	{"uidmap", "goes into the builder image", true, program("newuidmap")},
	{"xz-utils", "goes into the builder image", true, program("xz")},
}

// The rig runs without these; the tests and the demo use them beside it.
var companions = []need{
	{"buildah", "makes images in its own way", true, program("buildah")},
	{"docker-registry", "is an old registry", true, program("docker-registry")},
	{"skopeo", "reads back what was published", true, program("skopeo")},
}

func missingForAll() []need {
	found := missing(tierNodes)
	for _, n := range companions {
		if !n.there() {
			found = append(found, n)
		}
	}
	return found
}

func missing(tier string) []need {
	var found []need
	for _, n := range needs {
		if (!n.nodes || tier == tierNodes) && !n.there() {
			found = append(found, n)
		}
	}
	return found
}

func packages(list []need) []string {
	var names []string
	for _, n := range list {
		names = append(names, n.pkg)
	}
	return names
}

func installLine(list []need) string {
	return "apt-get update && apt-get install -y --no-install-recommends " + strings.Join(packages(list), " ")
}

func deps(install bool) error {
	list := missingForAll()
	if len(list) == 0 {
		fmt.Println("nothing is missing")
		return nil
	}
	for _, n := range list {
		fmt.Printf("missing: %-28s %s\n", n.pkg, n.why)
	}
	if !install {
		fmt.Println(installLine(list))
		return errQuiet
	}
	if os.Geteuid() != 0 {
		return errors.New("packages are installed by root: run `devcluster deps --install` as root, or\n" + installLine(list))
	}
	if !program("apt-get")() {
		return errors.New("this is no Debian (no apt-get): install what is named above by your system's means")
	}
	for _, args := range [][]string{{"update", "-qq"}, append([]string{"install", "-y", "-qq", "--no-install-recommends"}, packages(list)...)} {
		cmd := exec.Command("apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("apt-get %s: %w", strings.Join(args, " "), err)
		}
	}
	if list := missingForAll(); len(list) > 0 {
		return fmt.Errorf("still missing after the installation: %s", strings.Join(packages(list), " "))
	}
	return nil
}

// chooseTier decides what can run here. `auto` takes nodes where it can, and says why where it cannot.
func chooseTier(tier string, p *progress) (string, error) {
	if runtime.GOOS != "linux" {
		return "", errors.New("the rig runs on Linux only; elsewhere use the current kubectl context")
	}
	if list := missing(tierControlPlane); len(list) > 0 {
		return "", fmt.Errorf("this machine lacks %s; install it:\n%s", strings.Join(packages(list), " "), installLine(list))
	}
	if tier == tierControlPlane {
		return tier, nil
	}
	reason := noNodes()
	switch {
	case reason == nil:
		return tierNodes, nil
	case tier == tierNodes:
		return "", reason
	}
	p.say("no nodes, control plane only: %v", reason)
	return tierControlPlane, nil
}

func noNodes() error {
	if os.Geteuid() != 0 {
		return errors.New("nodes need root")
	}
	if list := missing(tierNodes); len(list) > 0 {
		return fmt.Errorf("this machine lacks %s; install it:\n%s\nor run `devcluster deps --install`", strings.Join(packages(list), " "), installLine(list))
	}
	// Inside a container, root may lack what a node is made of: namespaces of its own.
	cmd := exec.Command("/proc/self/exe", "help")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("this root may not make process and mount namespaces: %w", err)
	}
	return nil
}
