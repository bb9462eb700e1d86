package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// What takes the place of the Dockerfile's stages that need a network, where there is none. They are large, so they
// are made, and pushed to a rig that is up, when somebody asks for them.
const (
	toolchainTag = "toolchain:1"
	vendorTag    = "vendor:1"
	// toolchainRevision changes when a recipe below does.
	toolchainRevision = "1"
)

// pushStage makes one of the images, unless it is in the cache, pushes it to the rig and returns its reference.
func pushStage(opts options, name string) (string, error) {
	var now report
	if err := call(opts.dir, http.MethodGet, "/report", nil, &now); err != nil || now.State == nil {
		return "", fmt.Errorf("no rig runs in %s: `devcluster up` first", opts.dir)
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	root, err := checkoutRoot()
	if err != nil {
		return "", err
	}
	s := &stages{root: root, cache: cache, progress: newProgress(os.Stderr, opts.verbose)}
	recipes := map[string]func() (string, error){"toolchain": s.toolchain, "vendor": s.vendor}
	recipe, known := recipes[name]
	if !known {
		return "", fmt.Errorf("there is no image %q; there are toolchain, vendor", name)
	}
	where, err := recipe()
	if err != nil {
		return "", fmt.Errorf("image %s: %w", name, err)
	}
	index, err := layout.ImageIndexFromPath(where)
	if err != nil {
		return "", err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return "", err
	}
	descriptor := manifest.Manifests[0]
	reference := now.State.image(descriptor.Annotations["org.opencontainers.image.ref.name"])
	return reference, s.progress.step("push "+name, nil, func() error {
		return push(context.Background(), index, descriptor, reference)
	})
}

type stages struct {
	root, cache string
	progress    *progress
}

// cached returns the layout of an image that was made of the same things before, or makes it.
func (s *stages) cached(name, tag string, of []string, make func() (v1.Image, error)) (string, error) {
	hash := sha256.Sum256([]byte(strings.Join(append(of, toolchainRevision, runtime.GOARCH), "\n")))
	out := filepath.Join(s.cache, name+"-"+hex.EncodeToString(hash[:8]))
	return out, layoutOnce(out, func(temp string) error {
		return s.progress.step("image "+tag, nil, func() error {
			image, err := make()
			if err != nil {
				return err
			}
			made, err := layout.Write(temp, empty.Index)
			if err != nil {
				return err
			}
			return made.AppendImage(image, named(tag))
		})
	})
}

// vendor is an image with the sources of the dependencies.
func (s *stages) vendor() (string, error) {
	locked, err := os.ReadFile(filepath.Join(s.root, "Cargo.lock"))
	if err != nil {
		return "", err
	}
	return s.cached("vendor", vendorTag, []string{string(locked)}, func() (v1.Image, error) {
		folder, err := os.MkdirTemp(s.cache, "vendor-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(folder)
		if err := s.run("cargo", nil, "vendor", "--quiet", "--locked", "--versioned-dirs", folder); err != nil {
			return nil, err
		}
		t := tree{}
		if err := t.folder(folder); err != nil {
			return nil, err
		}
		layer, err := t.layer()
		if err != nil {
			return nil, err
		}
		return (&imageBuilder{}).image(runtime.GOARCH, v1.Config{}, layer)
	})
}

// crossCompilers are Debian's packages, by this machine's architecture.
var crossCompilers = map[string][]string{
	"amd64": {"gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"},
	"arm64": {"gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"},
}

// toolchain is an image with Debian's Rust and C compilers for amd64 and arm64.
func (s *stages) toolchain() (string, error) {
	auditable, err := s.auditableVersion()
	if err != nil {
		return "", err
	}
	return s.cached("toolchain", toolchainTag, []string{auditable}, func() (v1.Image, error) {
		debs, err := s.packages()
		if err != nil {
			return nil, err
		}
		b := &imageBuilder{debDir: filepath.Join(s.cache, "debs-toolchain"), files: map[string][]string{runtime.GOARCH: debs}}
		busybox, err := b.busyboxLayer(runtime.GOARCH)
		if err != nil {
			return nil, err
		}
		layers := []v1.Layer{busybox}
		// Two layers, so that one half at a time is in memory.
		for _, half := range []func(deb string) bool{isRust, func(deb string) bool { return !isRust(deb) && !isBusybox(deb) }} {
			t := tree{}
			for _, deb := range debs {
				if !half(deb) {
					continue
				}
				if err := t.deb(deb, toolchainNeeds); err != nil {
					return nil, err
				}
			}
			layer, err := t.layer()
			if err != nil {
				return nil, err
			}
			layers = append(layers, layer)
		}
		last, err := s.configured(auditable)
		if err != nil {
			return nil, err
		}
		return b.image(runtime.GOARCH, shellConfig, append(layers, last)...)
	})
}

// packages downloads the compilers for this machine with all they depend on, and the other architecture's std alone.
func (s *stages) packages() ([]string, error) {
	cross, known := crossCompilers[runtime.GOARCH]
	if !known {
		return nil, fmt.Errorf("there is no recipe on %s", runtime.GOARCH)
	}
	dir := filepath.Join(s.cache, "debs-toolchain")
	apt, err := newDebs(dir, compilerArches)
	if err != nil {
		return nil, err
	}
	defer apt.forget()
	other := compilerArches[0]
	if other == runtime.GOARCH {
		other = compilerArches[1]
	}
	names := append([]string{"busybox-static", "gcc", "libc6-dev", "rustc-web", "cargo-web"}, cross...)
	debs, err := apt.closure(runtime.GOARCH, names...)
	if err != nil {
		return nil, err
	}
	std, err := apt.only(other, "libstd-rust-web-dev")
	return append(debs, std...), err
}

func isRust(deb string) bool {
	name := filepath.Base(deb)
	return strings.HasPrefix(name, "libstd-rust-") || strings.HasPrefix(name, "libllvm")
}

// toolchainNeeds leaves out what compiling Rust and C does not need.
func toolchainNeeds(name string) bool {
	if !strings.HasPrefix(name, "usr/") || strings.HasPrefix(name, "usr/share/") {
		return false
	}
	base := path.Base(name)
	for _, part := range []string{"/plugin/", "/gconv/", "/debug/"} {
		if strings.Contains(name, part) {
			return false
		}
	}
	for _, prefix := range []string{"libasan", "libhwasan", "libtsan", "liblsan", "libubsan", "libgomp", "libitm", "libquadmath", "libgprofng"} {
		if strings.HasPrefix(base, prefix) {
			return false
		}
	}
	return !strings.HasSuffix(base, "-dwp") && !strings.Contains(base, "lto-dump")
}

// configured is what the packages' scripts would do, and the one program that Debian does not have.
func (s *stages) configured(auditable string) (v1.Layer, error) {
	t := tree{}
	t.link("usr/bin/cc", "gcc")
	program, err := s.auditable(auditable)
	if err != nil {
		return nil, err
	}
	if err := t.file("usr/bin/cargo-auditable", program, 0o755); err != nil {
		return nil, err
	}
	if err := t.file("etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt", 0o644); err != nil {
		return nil, err
	}
	return t.layer()
}

var auditablePin = regexp.MustCompile(`--version (\S+) cargo-auditable\b`)

// auditableVersion is the one that the Dockerfile installs.
func (s *stages) auditableVersion() (string, error) {
	dockerfile, err := os.ReadFile(filepath.Join(s.root, "Dockerfile"))
	if err != nil {
		return "", err
	}
	pin := auditablePin.FindSubmatch(dockerfile)
	if pin == nil {
		return "", errors.New("the Dockerfile does not say which cargo-auditable it installs")
	}
	return string(pin[1]), nil
}

// auditable builds the program statically, since the C library here may be newer than Debian's.
func (s *stages) auditable(version string) (string, error) {
	triple := map[string]string{"amd64": "x86_64-unknown-linux-gnu", "arm64": "aarch64-unknown-linux-gnu"}[runtime.GOARCH]
	root := filepath.Join(s.cache, "cargo-auditable-"+version)
	program := filepath.Join(root, "bin", "cargo-auditable")
	if exists(program) {
		return program, nil
	}
	return program, s.run("cargo", []string{"RUSTFLAGS=-C target-feature=+crt-static"},
		"install", "--quiet", "--locked", "--version", version, "--target", triple, "--root", root, "cargo-auditable")
}

func (s *stages) run(name string, env []string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = s.root, append(os.Environ(), env...)
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, args[0], err, strings.TrimSpace(string(said)))
	}
	return nil
}
