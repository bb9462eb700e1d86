package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// prepare brings everything into DIR/bin and the images into the cache. It returns the tier that is possible here.
func prepare(opts options, p *progress) (string, error) {
	tier, err := chooseTier(opts.tier, p)
	if err != nil {
		return "", err
	}
	source, cache, err := buildDirs()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(opts.dir, "bin")
	wanted := toolsOf(tier)
	if opts.all {
		wanted = append(wanted, extras()...)
	}
	stamps, err := buildTools(wanted, source, cache, bin, p)
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

// buildDirs are where the tools' sources lie and where what is built of them is kept.
func buildDirs() (source, cache string, err error) {
	if source, err = sourceDir(); err != nil {
		return "", "", err
	}
	cache, err = cacheDir()
	return source, cache, err
}

// prepareExtra brings one of the extras into DIR/bin and returns the path of the program.
func prepareExtra(opts options, name string) (string, error) {
	source, cache, err := buildDirs()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(opts.dir, "bin")
	var known []string
	for _, extra := range extras() {
		if slices.Contains(extra.names(), name) {
			_, err := buildTools([]tool{extra}, source, cache, bin, newProgress(os.Stderr, opts.verbose))
			return filepath.Join(bin, name), err
		}
		known = append(known, extra.names()...)
	}
	return "", fmt.Errorf("there is no tool %q; there are %s", name, strings.Join(known, ", "))
}
