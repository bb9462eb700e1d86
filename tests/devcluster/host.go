package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// host undoes what rigs change on the machine itself. Several rigs share it: the first one notes how it was, the
// last one to go puts it back.
type host struct {
	machineDir string
	slot       int
}

type hostNotes struct {
	Sysctls       map[string]string `json:"sysctls"`
	MountedBinfmt bool              `json:"mountedBinfmt"`
}

// The kubelet and the bridge plugin set these.
var touchedSysctls = []string{
	"net/ipv4/ip_forward", "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

func (h *host) notesPath() string { return filepath.Join(h.machineDir, "host.json") }

func (h *host) lock() (*os.File, error) {
	return lockFile(filepath.Join(h.machineDir, "host.lock"), true)
}

func (h *host) notes() (notes hostNotes, found bool, err error) {
	data, err := os.ReadFile(h.notesPath())
	if errors.Is(err, os.ErrNotExist) {
		return hostNotes{Sysctls: map[string]string{}}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &notes)
	}
	return notes, true, err
}

func (h *host) save(notes hostNotes) error {
	data, err := json.Marshal(notes)
	if err != nil {
		return err
	}
	return writeFile(h.notesPath(), data, 0o600)
}

// prepare notes the machine's settings and gives it the slot's addresses.
func (h *host) prepare() error {
	lock, err := h.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	notes, found, err := h.notes()
	if err != nil {
		return err
	}
	if !found {
		for _, name := range touchedSysctls {
			if value, err := os.ReadFile("/proc/sys/" + name); err == nil {
				notes.Sysctls[name] = strings.TrimSpace(string(value))
			}
		}
		if err := h.save(notes); err != nil {
			return err
		}
	}
	for _, address := range h.addresses() {
		if err := ip("address", "replace", address, "dev", "lo"); err != nil {
			return err
		}
	}
	return nil
}

func (h *host) addresses() []string {
	return []string{nodesAddress(h.slot) + "/32", serviceAddress(h.slot) + "/32"}
}

// restore removes all that the slot's rig may have left, in whatever state it ended. The caller holds the slot.
func (h *host) restore() error {
	lock, err := h.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	var errs []error
	errs = append(errs, killCgroup(h.slot), removeCgroup(h.slot, ""))
	bridges, err := filepath.Glob("/sys/class/net/" + bridgePrefix(h.slot) + "*")
	errs = append(errs, err)
	for _, bridge := range bridges {
		errs = append(errs, removeBridge(filepath.Base(bridge)))
	}
	for _, address := range h.addresses() {
		if hasAddress(address) {
			errs = append(errs, ip("address", "delete", address, "dev", "lo"))
		}
	}
	if !otherSlotsHeld(h.machineDir, h.slot) {
		errs = append(errs, h.restoreShared())
	}
	return errors.Join(errs...)
}

func (h *host) restoreShared() error {
	notes, found, err := h.notes()
	if err != nil || !found {
		return err
	}
	var errs []error
	for name, value := range notes.Sysctls {
		path := "/proc/sys/" + name
		if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) != value {
			errs = append(errs, os.WriteFile(path, []byte(value), 0o644))
		}
	}
	errs = append(errs, stopEmulation(notes.MountedBinfmt))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.Remove(h.notesPath())
}

func hasAddress(address string) bool {
	out, err := exec.Command("ip", "-o", "address", "show", "dev", "lo").Output()
	return err == nil && strings.Contains(string(out), " "+address+" ")
}

// removeBridge removes the pods' ends first: the kernel would do so too, but later.
func removeBridge(name string) error {
	ports, _ := filepath.Glob("/sys/class/net/" + name + "/brif/*")
	for _, port := range ports {
		ip("link", "delete", filepath.Base(port)) // it may be going by itself
	}
	if !exists("/sys/class/net/" + name) {
		return nil
	}
	return ip("link", "delete", name)
}

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func retry(limit time.Duration, try func() error) error {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if err := try(); err == nil || time.Now().After(end) {
			return err
		}
	}
}
