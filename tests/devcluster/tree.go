package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// tree is a layer's content. Paths are those of a merged /usr (bin, lib, … are links into it), so that packages of
// every release fit together.
type tree map[string]entry

type entry struct {
	tar.Header
	data []byte
}

func (t tree) add(name string, header tar.Header, data []byte) {
	name = merged(name)
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, known := t[dir]; !known {
			t[dir] = entry{Header: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}
		}
	}
	t[name] = entry{header, data}
}

func merged(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	top, _, _ := strings.Cut(name, "/")
	if top != name && slices.Contains(mergedDirs, top) {
		return "usr/" + name
	}
	return name
}

var mergedDirs = []string{"bin", "sbin", "lib", "lib64"}

func (t tree) dir(name string, mode int64, uid int) {
	t.add(name, tar.Header{Typeflag: tar.TypeDir, Mode: mode, Uid: uid, Gid: uid}, nil)
}

func (t tree) text(name string, mode int64, text string) {
	t.add(name, tar.Header{Typeflag: tar.TypeReg, Mode: mode}, []byte(text))
}

func (t tree) link(name, target string) {
	t.add(name, tar.Header{Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: target}, nil)
}

func (t tree) file(name, from string, mode int64) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	t.add(name, tar.Header{Typeflag: tar.TypeReg, Mode: mode}, data)
	return nil
}

// folder adds all files below a folder of this machine, at the top.
func (t tree) folder(from string) error {
	return filepath.WalkDir(from, func(file string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		return t.file(name, file, 0o644)
	})
}

// program adds a program of this machine with the shared libraries it needs.
func (t tree) program(file string) error {
	if err := t.file(file, file, 0o755); err != nil {
		return err
	}
	out, err := exec.Command("ldd", file).CombinedOutput()
	if err != nil {
		if strings.Contains(string(out), "not a dynamic executable") {
			return nil
		}
		return fmt.Errorf("ldd %s: %w: %s", file, err, out)
	}
	for line := range strings.Lines(string(out)) {
		for _, word := range strings.Fields(line) {
			if !strings.HasPrefix(word, "/") {
				continue
			}
			if _, known := t[merged(word)]; !known {
				if err := t.file(word, word, 0o755); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// capability gives a file a Linux capability, permitted and effective, as setcap NAME=ep does.
func (t tree) capability(name string, bit uint) {
	e := t[merged(name)]
	value := make([]byte, 20)
	value[0], value[3] = 1, 2 // effective; revision 2
	value[4+bit/8] = 1 << (bit % 8)
	e.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": string(value)}
	e.Format = tar.FormatPAX
	t[merged(name)] = e
}

// deb adds the files of a Debian package that `keep` accepts.
func (t tree) deb(file string, keep func(name string) bool) error {
	cmd := exec.Command("dpkg-deb", "--fsys-tarfile", file)
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("unpack %s: %w", file, err)
	}
	for reader := tar.NewReader(bytes.NewReader(out)); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		name := merged(header.Name)
		if header.Typeflag == tar.TypeDir || !keep(name) {
			continue
		}
		data, err := io.ReadAll(reader)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		clean := tar.Header{Typeflag: header.Typeflag, Mode: header.Mode & 0o777, Linkname: header.Linkname}
		if header.Typeflag == tar.TypeLink {
			clean.Linkname = merged(header.Linkname)
		}
		t.add(name, clean, data)
	}
}

// layer packs the tree: sorted, without times, so that the same content has the same digest.
func (t tree) layer() (v1.Layer, error) {
	var out bytes.Buffer
	writer := tar.NewWriter(&out)
	names := make([]string, 0, len(t))
	for name := range t {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		// A hard link comes after what it links to.
		if hardA, hardB := t[a].Typeflag == tar.TypeLink, t[b].Typeflag == tar.TypeLink; hardA != hardB {
			if hardA {
				return 1
			}
			return -1
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		e := t[name]
		header := e.Header
		header.Name, header.Size = name, int64(len(e.data))
		if header.Typeflag == tar.TypeDir {
			header.Name += "/"
		}
		if err := writer.WriteHeader(&header); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if _, err := writer.Write(e.data); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	data := out.Bytes()
	return tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
		tarball.WithCompressionLevel(gzip.BestSpeed), tarball.WithCompressedCaching, tarball.WithMediaType(types.OCILayer))
}
