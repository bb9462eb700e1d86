package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// owner is a process by its number and its time of birth, since numbers are used again.
type owner struct {
	pid   int
	birth string
}

func ownerOf(pid int) (owner, error) {
	birth, err := birthOf(pid)
	if err != nil {
		return owner{}, fmt.Errorf("--owner-pid %d: no such process", pid)
	}
	return owner{pid, birth}, nil
}

func (o owner) alive() bool {
	birth, err := birthOf(o.pid)
	return err == nil && birth == o.birth
}

// birthOf reads a process's start time; a zombie counts as gone.
func birthOf(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The name in parentheses may hold anything, so count from its end: state is the first field, start time the 20th.
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return "", errors.New("gone")
	}
	return fields[19], nil
}

// markedProcesses finds the processes that a rig in `dir` started, by their environment.
func markedProcesses(dir string) []int {
	var found []int
	entries, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, entry := range entries {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(entry)))
		if err != nil || pid == os.Getpid() {
			continue
		}
		data, err := os.ReadFile(entry)
		if err != nil {
			continue
		}
		for variable := range strings.SplitSeq(string(data), "\x00") {
			if variable == markVariable+"="+dir {
				found = append(found, pid)
			}
		}
	}
	return found
}

// killMarked ends what a rig left behind. The environment of a zombie reads as empty, so zombies do not count.
func killMarked(dir string) error {
	return retry(10*time.Second, func() error {
		left := markedProcesses(dir)
		for _, pid := range left {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(left) > 0 {
			return fmt.Errorf("processes %v of the rig in %s do not end", left, dir)
		}
		return nil
	})
}
