package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestTwoRigsTakeTwoSlots(t *testing.T) {
	dir := t.TempDir()
	accept := func(int) error { return nil }
	first, lock, err := takeSlot(dir, accept)
	if err != nil || first != 0 {
		t.Fatalf("first slot: %d, %v", first, err)
	}
	second, other, err := takeSlot(dir, accept)
	if err != nil || second != 1 {
		t.Fatalf("second slot: %d, %v", second, err)
	}
	if !otherSlotsHeld(dir, 0) {
		t.Error("slot 1 is held, but does not count")
	}
	releaseSlot(dir, second, other)
	if otherSlotsHeld(dir, 0) {
		t.Error("slot 1 was released, but counts")
	}
	releaseSlot(dir, first, lock)
	if again, _, err := takeSlot(dir, accept); err != nil || again != 0 {
		t.Errorf("a released slot is free again: %d, %v", again, err)
	}
}

func TestASlotWithATakenPortIsPassedOver(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	slot, _, err := takeSlot(t.TempDir(), func(slot int) error {
		if slot == 0 {
			return portsFree("127.0.0.1", port)
		}
		return nil
	})
	if err != nil || slot != 1 {
		t.Errorf("slot %d, %v", slot, err)
	}
}

func TestNoFreeSlotSaysWhy(t *testing.T) {
	_, _, err := takeSlot(t.TempDir(), func(int) error { return errors.New("port 5000 is taken") })
	if err == nil || !strings.Contains(err.Error(), "port 5000 is taken") {
		t.Errorf("got %v", err)
	}
}

func TestStampFollowsSourcesOnly(t *testing.T) {
	source := t.TempDir()
	module := filepath.Join(source, "tools", "x")
	write := func(name, text string) {
		t.Helper()
		if err := writeFile(filepath.Join(module, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stamp := func(x tool) string {
		t.Helper()
		got, err := x.stamp(source)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	x := tool{module: "x", programs: map[string]string{"x": "."}}
	write("go.mod", "module x\n")
	write("main.go", "package main\n")
	before := stamp(x)
	write("notes.md", "nothing that is built\n")
	if stamp(x) != before {
		t.Error("a file that is not built changed the stamp")
	}
	flagged := x
	flagged.tags = "seccomp"
	if stamp(flagged) == before {
		t.Error("a build tag did not change the stamp")
	}
	write("main.go", "package main // changed\n")
	if stamp(x) == before {
		t.Error("a changed source did not change the stamp")
	}
}

func TestELFPatterns(t *testing.T) {
	for arch, want := range map[string]string{
		"arm64": "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00",
		"arm":   "\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00",
		"s390x": "\x7fELF\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16",
	} {
		magic, mask := elfHeaders[arch].pattern()
		if string(magic) != want {
			t.Errorf("%s: magic %x, want %x", arch, magic, want)
		}
		if len(mask) != len(magic) {
			t.Errorf("%s: mask of %d bytes for a magic of %d", arch, len(mask), len(magic))
		}
	}
}

func TestFlagsMayStandAnywhere(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"node", "add", "s390x", "--dir", dir},
		{"node", "--dir", dir, "add", "s390x"},
		{"--dir", dir, "node", "add", "s390x"},
	} {
		command, opts, err := parse(args)
		if err != nil || command != "node add" || opts.dir != dir || len(opts.args) != 1 || opts.args[0] != "s390x" {
			t.Errorf("%v: %q %+v %v", args, command, opts, err)
		}
	}
}

func TestAnOwnerIsMoreThanItsNumber(t *testing.T) {
	self, err := ownerOf(os.Getpid())
	if err != nil || !self.alive() {
		t.Fatalf("this process lives: %v, %v", self, err)
	}
	if (owner{pid: self.pid, birth: "0"}).alive() {
		t.Error("another process under the same number counts as the owner")
	}
}

func TestPathsOfAMergedUsr(t *testing.T) {
	for from, want := range map[string]string{
		"./bin/busybox":     "usr/bin/busybox",
		"/lib64/ld.so":      "usr/lib64/ld.so",
		"usr/bin/gcc":       "usr/bin/gcc",
		"bin":               "bin",
		"etc/ssl/certs/x":   "etc/ssl/certs/x",
		"./lib/x/libc.so.6": "usr/lib/x/libc.so.6",
	} {
		if got := merged(from); got != want {
			t.Errorf("%s: %s, want %s", from, got, want)
		}
	}
}

func TestProgramsAreBroughtByManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	var all []func() error
	for i := range 50 {
		from := filepath.Join(dir, "cache", strconv.Itoa(i%2))
		if err := writeFile(from, []byte("program"), 0o755); err != nil {
			t.Fatal(err)
		}
		all = append(all, func() error { return linkOrCopy(from, filepath.Join(dir, "bin", "program")) })
	}
	if err := together(all...); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "bin"))
	if err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}
