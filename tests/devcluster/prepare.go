package main

import (
	"os"
	"path/filepath"
)

// prepare brings everything into DIR/bin and the images into the cache. It returns the tier that is possible here.
func prepare(opts options, p *progress) (string, error) {
	tier, err := chooseTier(opts.tier, p)
	if err != nil {
		return "", err
	}
	source, err := sourceDir()
	if err != nil {
		return "", err
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(opts.dir, "bin")
	stamps, err := buildTools(source, cache, bin, tier, p)
	if err != nil {
		return "", err
	}
	if err := wrapKubectl(opts.dir); err != nil {
		return "", err
	}
	// The supervisor outlives this process and, with `go run`, its file.
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if target := filepath.Join(bin, "devcluster"); self != target {
		os.Remove(target)
		if err := copyFile(self, target); err != nil {
			return "", err
		}
	}
	layout, err := buildImages(cache, bin, tier, stamps, p)
	if err != nil {
		return "", err
	}
	return tier, writeFile(filepath.Join(opts.dir, "images.path"), []byte(layout), 0o644)
}
