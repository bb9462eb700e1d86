package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// markVariable is in the environment of every process of a rig, so that `down` finds what a killed supervisor left.
const markVariable = "MULTIARCH_DEVCLUSTER_DIR"

// spawner starts processes from one thread that lives as long as the program: the kernel sends the parent-death
// signal when the *thread* that forked ends, and Go retires threads as it likes.
type spawner struct{ requests chan func() }

func newSpawner() *spawner {
	s := &spawner{requests: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for request := range s.requests {
			request()
		}
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd) error {
	result := make(chan error)
	s.requests <- func() { result <- cmd.Start() }
	return <-result
}

// service is a process that is started again when it ends before it should.
type service struct {
	name    string
	path    string
	args    []string
	env     []string
	dir     string
	log     string
	flags   uintptr // clone flags
	spawner *spawner
	notify  func(format string, args ...any)

	mu       sync.Mutex
	cmd      *exec.Cmd
	stopping bool
	ended    int // how often it ended by itself
	finished chan struct{}
}

const (
	restartDelay = time.Second
	tooOften     = 3
)

func (s *service) start() error {
	if err := os.MkdirAll(filepath.Dir(s.log), 0o755); err != nil {
		return err
	}
	s.finished = make(chan struct{})
	if err := s.launch(); err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	go s.watch()
	return nil
}

func (s *service) launch() error {
	out, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(s.path, s.args...)
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: s.flags}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil
	}
	if err := s.spawner.start(cmd); err != nil {
		return err
	}
	s.cmd = cmd
	return nil
}

func (s *service) watch() {
	defer close(s.finished)
	for {
		err := s.cmd.Wait()
		s.mu.Lock()
		stopping := s.stopping
		s.ended++
		s.mu.Unlock()
		if stopping {
			return
		}
		s.notify("%s ended by itself (%v), see %s; starting it again", s.name, err, s.log)
		for {
			time.Sleep(restartDelay)
			if err := s.launch(); err == nil {
				break
			}
		}
		s.mu.Lock()
		stopping = s.stopping
		s.mu.Unlock()
		if stopping {
			return
		}
	}
}

func (s *service) pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil || s.cmd.Process == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

// hopeless tells, while a rig starts, that a service ends again and again, with the last it said.
func (s *service) hopeless() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended < tooOften {
		return nil
	}
	data, _ := os.ReadFile(s.log)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return permanent{fmt.Errorf("%s ends again and again: %s (see %s)", s.name, lines[len(lines)-1], s.log)}
}

// stop asks with `signal` first and kills after the grace period.
func (s *service) stop(signal syscall.Signal, grace time.Duration) {
	s.mu.Lock()
	s.stopping = true
	cmd := s.cmd
	s.mu.Unlock()
	if cmd == nil || s.finished == nil {
		return
	}
	cmd.Process.Signal(signal)
	select {
	case <-s.finished:
	case <-time.After(grace):
		cmd.Process.Kill()
		<-s.finished
	}
}
