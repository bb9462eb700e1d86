package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// debs downloads packages of any architecture with all they depend on. It uses an apt of its own, with the
// machine's sources but nothing else of its configuration, so that the machine's apt and dpkg stay as they are.
type debs struct {
	dir string
	env []string
}

func newDebs(dir string, arches []string) (*debs, error) {
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	status := filepath.Join(dir, "status")
	config := filepath.Join(dir, "apt.conf")
	text := fmt.Sprintf(`Dir::State %q;
Dir::State::status %q;
Dir::Cache %q;
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Architectures { "%s"; };
APT::Sandbox::User "";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
`, filepath.Join(dir, "state"), status, filepath.Join(dir, "cache"), strings.Join(arches, `"; "`))
	if err := writeFile(status, nil, 0o644); err != nil {
		return nil, err
	}
	if err := writeFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	d := &debs{dir: dir, env: append(os.Environ(), "APT_CONFIG="+config, "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")}
	// A source that is down or lacks an architecture is no reason to stop, as long as the packages can be had.
	if err := d.apt("-qq", "update"); err != nil && !exists(filepath.Join(dir, "state/lists")) {
		return nil, err
	}
	return d, nil
}

func (d *debs) apt(args ...string) error { return d.aptIn("", args...) }

func (d *debs) aptIn(dir string, args ...string) error {
	cmd := exec.Command("apt-get", args...)
	cmd.Env, cmd.Dir = d.env, dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// closure fetches packages and what they depend on, for one architecture, and returns the files.
func (d *debs) closure(arch string, names ...string) ([]string, error) {
	into := filepath.Join(d.dir, arch)
	if err := os.MkdirAll(filepath.Join(into, "partial"), 0o755); err != nil {
		return nil, err
	}
	args := []string{"-qq", "-y", "--download-only", "-o", "APT::Architecture=" + arch, "-o", "Dir::Cache::archives=" + into, "-o", "Debug::NoLocking=1", "install"}
	if err := d.apt(append(args, names...)...); err != nil {
		return nil, err
	}
	// What an earlier run fetched may be an older version of the same package.
	if err := d.apt("-qq", "-o", "APT::Architecture="+arch, "-o", "Dir::Cache::archives="+into, "-o", "Debug::NoLocking=1", "autoclean"); err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(into, "*.deb"))
}

// only fetches packages of an architecture without what they depend on, and returns the files.
func (d *debs) only(arch string, names ...string) ([]string, error) {
	into := filepath.Join(d.dir, arch)
	if err := os.RemoveAll(into); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(into, 0o755); err != nil {
		return nil, err
	}
	args := []string{"-qq", "download"}
	for _, name := range names {
		args = append(args, name+":"+arch)
	}
	if err := d.aptIn(into, args...); err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(into, "*.deb"))
}

// forget drops the package lists, which are large and soon out of date; the packages stay.
func (d *debs) forget() { os.RemoveAll(filepath.Join(d.dir, "state")) }
