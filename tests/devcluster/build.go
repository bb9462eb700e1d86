package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
)

const kubernetesVersion = "v1.36.3"

// tool is one Go module below tools/ and the programs built from it.
type tool struct {
	module   string
	programs map[string]string // file name → package
	ldflags  string
	tags     string
	static   bool // needs a C compiler and is linked statically
	goarch   string
	tiers    []string
}

func tools() []tool {
	both := []string{tierNodes, tierControlPlane}
	version := "k8s.io/component-base/version."
	containers := map[string]string{
		"containerd":              "github.com/containerd/containerd/v2/cmd/containerd",
		"containerd-shim-runc-v2": "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
		"ctr":                     "github.com/containerd/containerd/v2/cmd/ctr",
		"buildctl":                "github.com/moby/buildkit/cmd/buildctl",
		"buildkitd":               "github.com/moby/buildkit/cmd/buildkitd",
		"rootlesskit":             "github.com/rootless-containers/rootlesskit/v2/cmd/rootlesskit",
	}
	return []tool{
		{
			module:   "kubernetes",
			programs: map[string]string{"kubernetes": "."},
			ldflags:  fmt.Sprintf("-X %[1]sgitVersion=%[2]s -X %[1]sgitMajor=1 -X %[1]sgitMinor=%[3]s", version, kubernetesVersion, strings.Split(kubernetesVersion, ".")[1]),
			tiers:    both,
		},
		{module: "containers", programs: map[string]string{"registry": "github.com/distribution/distribution/v3/cmd/registry"}, tiers: both},
		{module: "containers", programs: containers, tiers: []string{tierNodes}},
		{module: "runc", programs: map[string]string{"runc": "github.com/opencontainers/runc"}, tags: "seccomp", static: true, tiers: []string{tierNodes}},
		{module: "images", programs: map[string]string{"pause": "./pause"}, tiers: []string{tierNodes}},
		{module: "registries", programs: map[string]string{"registries": "."}, tiers: both},
		{module: "images", programs: map[string]string{"uname-s390x": "./uname"}, goarch: "s390x", tiers: both},
	}
}

// extras are what only some tests need; `devcluster tool NAME` and `devcluster flux up` build them when they are asked
// for, `devcluster build --all` before.
func extras() []tool {
	return []tool{
		{module: "gitops", programs: map[string]string{"health": "./health"}},
		{module: "gitops", programs: map[string]string{"helm": "helm.sh/helm/v4/cmd/helm"}},
		{module: "metrics", programs: map[string]string{"promlint": "."}},
		{module: "charts", programs: map[string]string{"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"}},
		{module: "charts", programs: map[string]string{"promql": "./promql"}},
		flux,
	}
}

func (t tool) title() string {
	return fmt.Sprintf("%s (%s)", t.module, strings.Join(t.names(), " "))
}

func (t tool) names() []string {
	var names []string
	for name := range t.programs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (t tool) arch() string {
	if t.goarch != "" {
		return t.goarch
	}
	return runtime.GOARCH
}

func (t tool) flags() []string {
	ldflags := strings.TrimSpace("-s -w " + t.ldflags)
	if t.static {
		ldflags += ` -extldflags "-static"`
	}
	flags := []string{"-trimpath", "-buildvcs=false", "-ldflags", ldflags}
	if t.tags != "" {
		flags = append(flags, "-tags", t.tags)
	}
	return flags
}

// stamp is a hash of everything that decides what is built: sources, locked dependencies, flags and platform.
func (t tool) stamp(source string) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.GOOS, t.arch(), t.flags(), t.names())
	root := filepath.Join(source, "tools", t.module)
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if filepath.Ext(name) != ".go" && name != "go.mod" && name != "go.sum" {
			return nil
		}
		data, err := os.ReadFile(path)
		fmt.Fprintln(hash, name, len(data))
		hash.Write(data)
		return err
	})
	return hex.EncodeToString(hash.Sum(nil))[:16], err
}

// toolsOf are the tools that a tier runs with.
func toolsOf(tier string) []tool {
	return slices.DeleteFunc(tools(), func(t tool) bool { return !slices.Contains(t.tiers, tier) })
}

// buildTools brings every program of the tools into binDir, from the cache or by building it.
// It returns a stamp per program.
func buildTools(wanted []tool, source, cache, binDir string, p *progress) (map[string]string, error) {
	stamps := map[string]string{}
	for i, t := range wanted {
		stamp, err := t.stamp(source)
		if err != nil {
			return nil, fmt.Errorf("tools/%s: %w", t.module, err)
		}
		out := filepath.Join(cache, fmt.Sprintf("%s-%s", t.module, stamp))
		if err := buildOnce(t, source, out, fmt.Sprintf("build %d/%d %s", i+1, len(wanted), t.title()), p); err != nil {
			return nil, err
		}
		for _, name := range t.names() {
			stamps[name] = stamp
			if err := linkOrCopy(filepath.Join(out, name), filepath.Join(binDir, name)); err != nil {
				return nil, err
			}
		}
	}
	return stamps, nil
}

func buildOnce(t tool, source, out, title string, p *progress) error {
	done := filepath.Join(out, ".done")
	if exists(done) {
		p.debug("%s: cached", title)
		return nil
	}
	lock, err := lockFile(out+".lock", true)
	if err != nil {
		return err
	}
	defer lock.Close()
	if exists(done) {
		return nil
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	var packages atomic.Int64
	note := func() string { return fmt.Sprintf(", %d packages compiled", packages.Load()) }
	err = p.step(title, note, func() error {
		// One call for each program would link in turn; one call for all links in parallel. A main package
		// that is the module itself must be named by -o file, so single programs take that way.
		if len(t.programs) == 1 {
			name := t.names()[0]
			return t.goBuild(source, filepath.Join(out, name), []string{t.programs[name]}, &packages)
		}
		var targets []string
		for _, name := range t.names() {
			targets = append(targets, t.programs[name])
		}
		return t.goBuild(source, out+string(filepath.Separator), targets, &packages)
	})
	if err != nil {
		return fmt.Errorf("build of tools/%s failed: %w", t.module, err)
	}
	return os.WriteFile(done, nil, 0o644)
}

func (t tool) goBuild(source, out string, targets []string, packages *atomic.Int64) error {
	args := append([]string{"build", "-v", "-o", out}, t.flags()...)
	cmd := exec.Command("go", append(args, targets...)...)
	cmd.Dir = filepath.Join(source, "tools", t.module)
	cgo := "0"
	if t.static {
		cgo = "1"
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo, "GOFLAGS=", "GOWORK=off", "GOOS="+runtime.GOOS, "GOARCH="+t.arch())
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w; install Go (https://go.dev) and put it in PATH", err)
	}
	var tail bytes.Buffer
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		line := lines.Text()
		if strings.ContainsAny(line, " :") {
			fmt.Fprintln(&tail, line)
		} else {
			packages.Add(1)
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("go build in %s: %w\n%s", cmd.Dir, err, strings.TrimSpace(tail.String()))
	}
	return nil
}

// linkOrCopy replaces `to`: a running program may keep the old file.
func linkOrCopy(from, to string) error {
	if a, err := os.Stat(from); err == nil {
		if b, err := os.Stat(to); err == nil && os.SameFile(a, b) {
			return nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	// A folder of its own, since others may bring the same program at the same time.
	folder, err := os.MkdirTemp(filepath.Dir(to), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	temp := filepath.Join(folder, filepath.Base(to))
	if os.Link(from, temp) != nil {
		if err := copyFile(from, temp); err != nil {
			return err
		}
	}
	return os.Rename(temp, to)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
