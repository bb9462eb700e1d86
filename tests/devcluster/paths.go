package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// checkoutRoot walks up to the directory with Cargo.toml or .git (a file in a worktree).
func checkoutRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if exists(filepath.Join(dir, "Cargo.toml")) || exists(filepath.Join(dir, ".git")) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no checkout (Cargo.toml or .git) above %s: run this inside the checkout", start)
		}
	}
}

func rigDir(flag string) (string, error) {
	if flag != "" {
		return filepath.Abs(flag)
	}
	root, err := checkoutRoot()
	if err != nil {
		return "", fmt.Errorf("%w, or give --dir", err)
	}
	return filepath.Join(root, "target", "devcluster"), nil
}

// sourceDir is tests/devcluster itself, where the tools' modules lie.
func sourceDir() (string, error) {
	root, err := checkoutRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "tests", "devcluster")
	if !exists(filepath.Join(dir, "tools")) {
		return "", fmt.Errorf("%s has no tools/: run this inside the multiarch-operator checkout", dir)
	}
	return dir, nil
}

// cacheDir is shared by all checkouts of a user, so that a fresh clone starts warm.
func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place for the build cache: %w; set HOME or XDG_CACHE_HOME", err)
	}
	dir := filepath.Join(base, "multiarch-devcluster")
	return dir, os.MkdirAll(dir, 0o755)
}

// machineDir holds what all rigs of one user on this machine must agree on: slots, and the host's settings before the first rig.
func machineDir() (string, error) {
	dir := "/run/multiarch-devcluster"
	if os.Geteuid() != 0 {
		base := os.Getenv("XDG_RUNTIME_DIR")
		if base == "" || !exists(base) {
			base = os.TempDir()
		}
		dir = filepath.Join(base, fmt.Sprintf("multiarch-devcluster-%d", os.Geteuid()))
	}
	return dir, os.MkdirAll(dir, 0o700)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func writeFile(path string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, mode)
}
