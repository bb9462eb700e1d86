package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// imagesRevision changes when a recipe below does, so that cached images are made again.
const imagesRevision = "2"

const (
	buildkitTag = "buildkit:v0.33.0-rootless"
	busyboxTag  = "busybox:1"
	compilerTag = "cc:1"
	goTag       = "go:1"
	unameTag    = "uname:s390x"
	pauseTag    = "pause:1"
)

var (
	busyboxArches  = []string{"amd64", "arm64", "s390x"}
	compilerArches = []string{"amd64", "arm64"}
)

// buildImages assembles the images once, as an OCI layout in the cache, and returns its path.
func buildImages(cache, bin, tier string, stamps map[string]string, p *progress) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, imagesRevision, tier, runtime.GOARCH, runtime.Version())
	for _, name := range []string{"pause", "uname-s390x", "runc", "buildkitd", "buildctl", "rootlesskit"} {
		fmt.Fprintln(hash, name, stamps[name])
	}
	out := filepath.Join(cache, "layout-"+hex.EncodeToString(hash.Sum(nil))[:16])
	return out, layoutOnce(out, func(temp string) error {
		if !program("apt-get")() || !program("dpkg-deb")() {
			return fmt.Errorf("the rig's images are made of Debian packages: apt-get and dpkg-deb are needed")
		}
		b := &imageBuilder{bin: bin, debDir: filepath.Join(cache, "debs"), progress: p}
		if err := b.all(temp, tier); err != nil {
			return fmt.Errorf("images: %w", err)
		}
		return nil
	})
}

// layoutOnce has an OCI layout made in the folder that it is given, unless it is there; it gets its name when it is whole.
func layoutOnce(out string, make func(temp string) error) error {
	isThere := func() bool { return exists(filepath.Join(out, "index.json")) }
	if isThere() {
		return nil
	}
	lock, err := lockFile(out+".lock", true)
	if err != nil {
		return err
	}
	defer lock.Close()
	if isThere() {
		return nil
	}
	temp := out + ".new"
	defer os.RemoveAll(temp)
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	if err := make(temp); err != nil {
		return err
	}
	return os.Rename(temp, out)
}

type imageBuilder struct {
	bin      string
	debDir   string
	files    map[string][]string // packages by architecture
	progress *progress
	layout   layout.Path
	busybox  map[string]v1.Layer
}

func (b *imageBuilder) all(out, tier string) error {
	err := b.progress.step("download packages for the images", nil, b.download)
	if err != nil {
		return err
	}
	if b.layout, err = layout.Write(out, empty.Index); err != nil {
		return err
	}
	type recipe struct {
		tag  string
		make func() error
	}
	recipes := []recipe{{busyboxTag, b.makeBusybox}, {compilerTag, b.makeCompiler}, {unameTag, b.makeUname}}
	if tier == tierNodes {
		recipes = append(recipes, recipe{pauseTag, b.makePause}, recipe{buildkitTag, b.makeBuilder}, recipe{goTag, b.makeGo})
	}
	for i, recipe := range recipes {
		title := fmt.Sprintf("image %d/%d %s", i+1, len(recipes), recipe.tag)
		if err := b.progress.step(title, nil, recipe.make); err != nil {
			return fmt.Errorf("%s: %w", recipe.tag, err)
		}
	}
	return nil
}

func (b *imageBuilder) download() error {
	lock, err := lockFile(b.debDir+".lock", true)
	if err != nil {
		return err
	}
	defer lock.Close()
	apt, err := newDebs(b.debDir, busyboxArches)
	if err != nil {
		return err
	}
	defer apt.forget()
	b.files = map[string][]string{}
	for _, arch := range busyboxArches {
		names := []string{"busybox-static"}
		if slices.Contains(compilerArches, arch) {
			names = append(names, "gcc", "musl-dev")
		}
		if b.files[arch], err = apt.closure(arch, names...); err != nil {
			return err
		}
	}
	return nil
}

func (b *imageBuilder) image(arch string, config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", arch, config
	if image, err = mutate.ConfigFile(image, file); err != nil {
		return nil, err
	}
	return mutate.AppendLayers(image, layers...)
}

func named(tag string) layout.Option {
	return layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag})
}

func (b *imageBuilder) index(tag string, arches []string, make func(arch string) (v1.Image, error)) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range arches {
		image, err := make(arch)
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	plain, err := withoutArtifactTypes(index)
	if err != nil {
		return err
	}
	return b.layout.AppendIndex(plain, named(tag))
}

var shellConfig = v1.Config{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Cmd: []string{"sh"}}

func (b *imageBuilder) makeBusybox() error {
	b.busybox = map[string]v1.Layer{}
	return b.index(busyboxTag, busyboxArches, func(arch string) (v1.Image, error) {
		layer, err := b.busyboxLayer(arch)
		if err != nil {
			return nil, err
		}
		b.busybox[arch] = layer
		return b.image(arch, shellConfig, layer)
	})
}

// busyboxLayer is the base of every image with a shell.
func (b *imageBuilder) busyboxLayer(arch string) (v1.Layer, error) {
	applets, err := b.applets()
	if err != nil {
		return nil, err
	}
	t := tree{}
	for _, dir := range mergedDirs {
		t.dir("usr/"+dir, 0o755, 0)
		t.link(dir, "usr/"+dir)
	}
	for _, dir := range []string{"dev", "etc", "home", "proc", "run", "sys", "usr/local/bin", "var"} {
		t.dir(dir, 0o755, 0)
	}
	t.dir("root", 0o700, 0)
	t.dir("tmp", 0o1777, 0)
	t.text("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
	t.text("etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n")
	if err := b.addBusybox(t, arch); err != nil {
		return nil, err
	}
	for _, applet := range applets {
		if applet != "busybox" {
			t.link("usr/bin/"+applet, "busybox")
		}
	}
	return t.layer()
}

func (b *imageBuilder) addBusybox(t tree, arch string) error {
	for _, file := range b.files[arch] {
		if isBusybox(file) {
			return t.deb(file, func(name string) bool { return name == "usr/bin/busybox" })
		}
	}
	return fmt.Errorf("no busybox-static for %s was downloaded", arch)
}

func isBusybox(deb string) bool { return strings.HasPrefix(filepath.Base(deb), "busybox-static_") }

// applets asks this machine's build of busybox; Debian configures all architectures alike.
func (b *imageBuilder) applets() ([]string, error) {
	t := tree{}
	if err := b.addBusybox(t, runtime.GOARCH); err != nil {
		return nil, err
	}
	program := filepath.Join(b.debDir, "busybox")
	if err := os.WriteFile(program, t["usr/bin/busybox"].data, 0o755); err != nil {
		return nil, err
	}
	out, err := exec.Command(program, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// makeCompiler makes an image with sh and a C compiler that links statically.
func (b *imageBuilder) makeCompiler() error {
	musl := map[string]string{"amd64": "x86_64-linux-musl", "arm64": "aarch64-linux-musl"}
	return b.index(compilerTag, compilerArches, func(arch string) (v1.Image, error) {
		t := tree{}
		for _, file := range b.files[arch] {
			if isBusybox(file) {
				continue
			}
			if err := t.deb(file, compilerNeeds); err != nil {
				return nil, err
			}
		}
		t.text("usr/bin/cc", 0o755, fmt.Sprintf("#!/bin/sh\nexec gcc -specs=/usr/lib/%s/musl-gcc.specs -static \"$@\"\n", musl[arch]))
		layer, err := t.layer()
		if err != nil {
			return nil, err
		}
		return b.image(arch, shellConfig, b.busybox[arch], layer)
	})
}

// compilerNeeds leaves out what compiling C does not need; it is most of the packages.
func compilerNeeds(name string) bool {
	if !strings.HasPrefix(name, "usr/bin/") && !strings.HasPrefix(name, "usr/lib") && !strings.HasPrefix(name, "usr/include/") {
		return false
	}
	base := path.Base(name)
	for _, part := range []string{"/plugin/", "/gconv/", "/ldscripts/", "/debug/"} {
		if strings.Contains(name, part) {
			return false
		}
	}
	for _, prefix := range []string{"lto1", "libasan", "libhwasan", "libtsan", "liblsan", "libubsan", "libgomp", "libitm", "libquadmath", "libgprofng", "libstdc++", "libcc1"} {
		if strings.HasPrefix(base, prefix) {
			return false
		}
	}
	for _, suffix := range []string{"-dwp", "-gold", "gprofng", "-gprof", "gp-archive", "gp-collect-app", "gp-display-html", "gp-display-src", "gp-display-text", "-lto-dump-12"} {
		if strings.HasSuffix(base, suffix) {
			return false
		}
	}
	return true
}

// makeGo makes an image with this machine's Go, as much of it as compiling takes.
func (b *imageBuilder) makeGo() error {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	root, t := strings.TrimSpace(string(out)), tree{}
	tools := filepath.Join("pkg", "tool", runtime.GOOS+"_"+runtime.GOARCH)
	for _, name := range []string{"bin/go", filepath.Join(tools, "asm"), filepath.Join(tools, "compile"), filepath.Join(tools, "link")} {
		if err := t.file(filepath.Join("usr/local/go", name), filepath.Join(root, name), 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{"src", "pkg/include", "go.env", "VERSION"} {
		if err := addSources(t, root, dir); err != nil {
			return err
		}
	}
	layer, err := t.layer()
	if err != nil {
		return err
	}
	config := v1.Config{
		Env: []string{"PATH=/usr/local/go/bin:" + strings.TrimPrefix(shellConfig.Env[0], "PATH="), "CGO_ENABLED=0", "GOPROXY=off", "GOTOOLCHAIN=local"},
		Cmd: shellConfig.Cmd,
	}
	image, err := b.image(runtime.GOARCH, config, b.busybox[runtime.GOARCH], layer)
	if err != nil {
		return err
	}
	return b.layout.AppendImage(image, named(goTag))
}

// addSources adds what is below a folder of GOROOT, without commands and tests.
func addSources(t tree, root, dir string) error {
	return filepath.WalkDir(filepath.Join(root, dir), func(file string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name == filepath.Join("src", "cmd") || entry.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(name, "_test.go") || !entry.Type().IsRegular() {
			return nil
		}
		return t.file(filepath.Join("usr/local/go", name), file, 0o644)
	})
}

func (b *imageBuilder) makeUname() error {
	return b.single(unameTag, "s390x", "uname-s390x", "uname")
}

func (b *imageBuilder) makePause() error {
	return b.single(pauseTag, runtime.GOARCH, "pause", "pause")
}

func (b *imageBuilder) single(tag, arch, program, name string) error {
	t := tree{}
	if err := t.file(name, filepath.Join(b.bin, program), 0o755); err != nil {
		return err
	}
	layer, err := t.layer()
	if err != nil {
		return err
	}
	image, err := b.image(arch, v1.Config{Entrypoint: []string{"/" + name}}, layer)
	if err != nil {
		return err
	}
	return b.layout.AppendImage(image, named(tag))
}

// makeBuilder makes an image with the shape of BuildKit's own rootless one.
func (b *imageBuilder) makeBuilder() error {
	tools, git := tree{}, tree{}
	for _, name := range []string{"buildkitd", "buildctl", "rootlesskit", "runc"} {
		if err := tools.file("usr/bin/"+name, filepath.Join(b.bin, name), 0o755); err != nil {
			return err
		}
	}
	if err := addGit(git); err != nil {
		return err
	}
	if err := addSSH(git); err != nil {
		return err
	}
	for name, bit := range map[string]uint{"newgidmap": 6, "newuidmap": 7} { // CAP_SETGID, CAP_SETUID
		file, err := exec.LookPath(name)
		if err != nil {
			return err
		}
		if err := git.program(file); err != nil {
			return err
		}
		// Not set-user-id: inside a container that fails, while the capability works.
		git.capability(file, bit)
	}
	const uid = 1000
	git.text("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n")
	git.text("etc/group", 0o644, "root:x:0:\nuser:x:1000:\n")
	git.text("etc/subuid", 0o644, "user:100000:65536\n")
	git.text("etc/subgid", 0o644, "user:100000:65536\n")
	for _, dir := range []string{"home/user", "home/user/.local", "home/user/.local/share", "home/user/.local/share/buildkit", "home/user/.local/tmp", "home/user/.config", "home/user/.config/buildkit"} {
		git.dir(dir, 0o755, uid)
	}
	git.dir("run/user/1000", 0o700, uid)

	layers := []v1.Layer{b.busybox[runtime.GOARCH]}
	for _, t := range []tree{git, tools} {
		layer, err := t.layer()
		if err != nil {
			return err
		}
		layers = append(layers, layer)
	}
	image, err := b.image(runtime.GOARCH, v1.Config{
		User: "1000:1000",
		Env: []string{
			shellConfig.Env[0], "HOME=/home/user", "USER=user", "XDG_RUNTIME_DIR=/run/user/1000",
			"TMPDIR=/home/user/.local/tmp", "BUILDKIT_HOST=unix:///run/user/1000/buildkit/buildkitd.sock",
		},
		Volumes:    map[string]struct{}{"/home/user/.local/share/buildkit": {}},
		Entrypoint: []string{"rootlesskit", "buildkitd"},
	}, layers...)
	if err != nil {
		return err
	}
	return b.layout.AppendImage(image, named(buildkitTag))
}

// addGit takes the machine's git: BuildKit runs it to fetch git contexts.
func addGit(t tree) error {
	core, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return fmt.Errorf("git --exec-path: %w", err)
	}
	dir := strings.TrimSpace(string(core))
	git, err := exec.LookPath("git")
	if err != nil {
		return err
	}
	for _, file := range []string{git, filepath.Join(dir, "git-remote-http")} {
		if err := t.program(file); err != nil {
			return err
		}
	}
	t.link(filepath.Join(dir, "git-remote-https"), "git-remote-http")
	t.link(filepath.Join(dir, "git"), git)
	for _, script := range []string{"git-submodule", "git-sh-setup", "git-sh-i18n"} {
		if err := t.file(filepath.Join(dir, script), filepath.Join(dir, script), 0o755); err != nil {
			return err
		}
	}
	return t.file("etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt", 0o644)
}

// addSSH takes the machine's ssh client, which git runs.
func addSSH(t tree) error {
	for _, name := range []string{"ssh", "xz"} {
		file, err := exec.LookPath(name)
		if err != nil {
			return fmt.Errorf("%w; install the packages openssh-client and xz-utils", err)
		}
		if err := t.program(file); err != nil {
			return err
		}
	}
	return nil
}
