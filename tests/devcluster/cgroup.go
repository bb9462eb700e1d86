package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func cgroupPath(slot int, node string) string {
	return filepath.Join(fmt.Sprintf("/multiarch-devcluster-%d", slot), node)
}

// cgroupMounts lists every hierarchy of version 1, and the one of version 2.
func cgroupMounts() ([]string, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var mounts []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if len(fields) > 4 && len(kind) > 0 && strings.HasPrefix(kind[0], "cgroup") && !slices.Contains(mounts, fields[4]) {
			mounts = append(mounts, fields[4])
		}
	}
	return mounts, nil
}

// makeCgroup makes the node's root group in every hierarchy; the kubelet does not make its own root.
func makeCgroup(slot int, node string) error {
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	for _, mount := range mounts {
		parent := mount
		for _, part := range strings.Split(strings.Trim(cgroupPath(slot, node), "/"), "/") {
			enableControllers(parent)
			group := filepath.Join(parent, part)
			if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("make cgroup: %w", err)
			}
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				inherit(filepath.Join(parent, file), filepath.Join(group, file))
			}
			parent = group
		}
	}
	return nil
}

// inherit fills a version-1 cpuset, which begins empty and then accepts no process.
func inherit(from, to string) {
	if now, err := os.ReadFile(to); err != nil || strings.TrimSpace(string(now)) != "" {
		return
	}
	if data, err := os.ReadFile(from); err == nil {
		os.WriteFile(to, data, 0o644)
	}
}

// enableControllers hands a version-2 group's controllers down to its children.
func enableControllers(group string) {
	data, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
	if err != nil {
		return
	}
	for _, controller := range strings.Fields(string(data)) {
		os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
	}
}

// cgroupTree lists a tree of groups in all hierarchies, children first.
func cgroupTree(path string) ([]string, error) {
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	var groups []string
	for _, mount := range mounts {
		filepath.WalkDir(filepath.Join(mount, path), func(group string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				groups = append(groups, group)
			}
			return nil
		})
	}
	slices.Reverse(groups)
	return groups, nil
}

// killCgroup ends every process in the slot's groups: containers of a rig whose supervisor was killed.
func killCgroup(slot int) error {
	return retry(10*time.Second, func() error {
		groups, err := cgroupTree(cgroupPath(slot, ""))
		if err != nil {
			return err
		}
		left := 0
		for _, group := range groups {
			data, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
			if err != nil {
				continue
			}
			for _, field := range strings.Fields(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
					left++
					syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		if left > 0 {
			return fmt.Errorf("%d processes below cgroup %s do not end", left, cgroupPath(slot, ""))
		}
		return nil
	})
}

// removeCgroup removes a node's groups, or with an empty name the slot's. A group stays busy for a moment after its
// last process.
func removeCgroup(slot int, node string) error {
	return retry(10*time.Second, func() error {
		groups, err := cgroupTree(cgroupPath(slot, node))
		if err != nil {
			return err
		}
		for _, group := range groups {
			if removeErr := os.Remove(group); removeErr != nil && !errors.Is(removeErr, fs.ErrNotExist) {
				err = removeErr
			}
		}
		return err
	})
}
