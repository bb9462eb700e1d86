package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const binfmtDir = "/proc/sys/fs/binfmt_misc"

// binfmtPrefix names the rig's own handlers, so that others' stay as they were.
const binfmtPrefix = "devcluster-"

var archPattern = regexp.MustCompile(`^[a-z0-9]+$`)

// elfHeader is what tells an architecture's programs from others'.
type elfHeader struct {
	qemu      string
	bits64    bool
	bigEndian bool
	machine   byte
}

var elfHeaders = map[string]elfHeader{
	"386":     {"i386", false, false, 3},
	"amd64":   {"x86_64", true, false, 62},
	"arm":     {"arm", false, false, 40},
	"arm64":   {"aarch64", true, false, 183},
	"ppc64le": {"ppc64le", true, false, 21},
	"riscv64": {"riscv64", true, false, 243},
	"s390x":   {"s390x", true, true, 22},
}

// pattern gives magic and mask of binfmt_misc: the ELF header to e_machine, the ABI byte ignored, executable or shared object.
func (e elfHeader) pattern() (magic, mask []byte) {
	magic = make([]byte, 20)
	copy(magic, "\x7fELF\x01\x01\x01")
	mask = []byte("\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff")
	if e.bits64 {
		magic[4] = 2
	}
	kind, machine := 16, 18
	if e.bigEndian {
		magic[5] = 2
		kind, machine = 17, 19
		mask[16], mask[17] = 0xff, 0xfe
	}
	magic[kind], magic[machine] = 2, e.machine
	return magic, mask
}

// runsHere tells whether the machine executes an architecture without emulation.
func runsHere(arch string) bool {
	return arch == runtime.GOARCH || (arch == "386" && runtime.GOARCH == "amd64")
}

// emulate makes the kernel run an architecture's programs, also inside containers, unless it does so already.
func (h *host) emulate(arch string) error {
	if runsHere(arch) {
		return nil
	}
	header, known := elfHeaders[arch]
	if !known {
		return fmt.Errorf("no architecture %q can be emulated here; there are %s", arch, strings.Join(slices.Sorted(maps.Keys(elfHeaders)), ", "))
	}
	lock, err := h.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	if !exists(filepath.Join(binfmtDir, "register")) {
		if err := h.mountBinfmt(); err != nil {
			return err
		}
	}
	magic, mask := header.pattern()
	if binfmtHandles(magic) {
		return nil
	}
	interpreter, err := exec.LookPath("qemu-" + header.qemu + "-static")
	if err != nil {
		return fmt.Errorf("no emulator for %s: %w; install qemu-user-static", arch, err)
	}
	// F opens the emulator now, so that containers need not have it; P keeps argv[0], by which busybox knows its
	// applet; O and C keep set-user-id programs working.
	line := fmt.Sprintf(":%s%s:M::%s:%s:%s:FPOC", binfmtPrefix, arch, hexEscape(magic), hexEscape(mask), interpreter)
	if err := os.WriteFile(filepath.Join(binfmtDir, "register"), []byte(line), 0o200); err != nil {
		return fmt.Errorf("register the emulator for %s: %w", arch, err)
	}
	return nil
}

func (h *host) mountBinfmt() error {
	notes, _, err := h.notes()
	if err != nil {
		return err
	}
	notes.MountedBinfmt = true
	if err := h.save(notes); err != nil {
		return err
	}
	if err := unix.Mount("binfmt_misc", binfmtDir, "binfmt_misc", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", binfmtDir, err)
	}
	return nil
}

// binfmtHandles looks for an enabled handler that works in containers and keeps argv[0]. One that does not is left
// alone: a handler registered later comes first.
func binfmtHandles(magic []byte) bool {
	entries, _ := filepath.Glob(binfmtDir + "/*")
	for _, entry := range entries {
		data, err := os.ReadFile(entry)
		if err != nil {
			continue
		}
		text := string(data)
		if strings.HasPrefix(text, "enabled\n") && strings.Contains(text, fmt.Sprintf("magic %x\n", magic)) && usableFlags(text) {
			return true
		}
	}
	return false
}

func usableFlags(entry string) bool {
	_, flags, _ := strings.Cut(entry, "\nflags: ")
	flags, _, _ = strings.Cut(flags, "\n")
	return strings.Contains(flags, "F") && strings.Contains(flags, "P")
}

func hexEscape(data []byte) string {
	var out strings.Builder
	for _, b := range data {
		fmt.Fprintf(&out, `\x%02x`, b)
	}
	return out.String()
}

// stopEmulation removes the rigs' handlers and, if they mounted it, binfmt_misc.
func stopEmulation(unmount bool) error {
	var errs []error
	entries, _ := filepath.Glob(binfmtDir + "/" + binfmtPrefix + "*")
	for _, entry := range entries {
		errs = append(errs, os.WriteFile(entry, []byte("-1"), 0o200))
	}
	if unmount && exists(filepath.Join(binfmtDir, "register")) {
		errs = append(errs, unix.Unmount(binfmtDir, 0))
	}
	return errors.Join(errs...)
}
