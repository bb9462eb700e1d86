package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const slots = 10

var errLocked = errors.New("locked by another process")

// lockFile takes an exclusive lock that ends with the process. The file may have been deleted by its last owner
// between open and lock, so the lock counts only if the path still names the same file.
func lockFile(path string, wait bool) (*os.File, error) {
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(file.Fd()), how); err != nil {
			file.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, errLocked
			}
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		locked, err1 := file.Stat()
		named, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(locked, named) {
			return file, nil
		}
		file.Close()
	}
}

func slotLockPath(dir string, slot int) string {
	return filepath.Join(dir, fmt.Sprintf("slot-%d.lock", slot))
}

// takeSlot finds the first slot that nobody holds and that `usable` accepts.
func takeSlot(dir string, usable func(slot int) error) (int, *os.File, error) {
	var reasons []error
	for slot := range slots {
		file, err := lockFile(slotLockPath(dir, slot), false)
		if err != nil {
			reasons = append(reasons, fmt.Errorf("slot %d: %w", slot, err))
			continue
		}
		if err := usable(slot); err != nil {
			releaseSlot(dir, slot, file)
			reasons = append(reasons, fmt.Errorf("slot %d: %w", slot, err))
			continue
		}
		return slot, file, nil
	}
	return 0, nil, fmt.Errorf("none of the %d slots for rigs on this machine is free: %w", slots, errors.Join(reasons...))
}

func releaseSlot(dir string, slot int, file *os.File) {
	os.Remove(slotLockPath(dir, slot))
	file.Close()
}

// otherSlotsHeld tells whether a rig runs in another slot.
func otherSlotsHeld(dir string, slot int) bool {
	for other := range slots {
		path := slotLockPath(dir, other)
		if other == slot || !exists(path) {
			continue
		}
		file, err := lockFile(path, false)
		if errors.Is(err, errLocked) {
			return true
		}
		if err == nil {
			releaseSlot(dir, other, file)
		}
	}
	return false
}
