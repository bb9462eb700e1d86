package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	phaseStarting = "starting"
	phaseReady    = "ready"
	phaseFailed   = "failed"
	phaseStopping = "stopping"
)

// report is the supervisor's answer to every question; lines are its progress from the asked line on.
type report struct {
	Phase string   `json:"phase"`
	Lines []string `json:"lines"`
	Error string   `json:"error,omitempty"`
	State *state   `json:"state,omitempty"`
}

// supervisor is the daemon that owns every process of the rig.
type supervisor struct {
	rig *rig

	mu     sync.Mutex
	phase  string
	err    error
	lines  []string
	owners map[owner]bool
	// forever: an `up` without owner was there, so only `down` ends the rig.
	forever bool
	end     chan struct{}
	endOnce sync.Once
}

func (s *supervisor) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, strings.TrimRight(string(line), "\n"))
	return os.Stderr.Write(line)
}

// supervise is what `up` starts in the background.
func supervise(opts options) error {
	s := &supervisor{phase: phaseStarting, owners: map[owner]bool{}, end: make(chan struct{})}
	if err := s.own(opts.ownerPID); err != nil {
		return err
	}
	listener, err := listenSocket(opts.dir)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: s.routes()}
	go server.Serve(listener)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go s.watchOwners(ctx)
	go func() {
		select {
		case <-s.end:
			cancel()
		case <-ctx.Done():
			s.finish()
		}
	}()

	startErr := s.start(ctx, opts)
	if startErr != nil {
		s.set(phaseFailed, startErr)
	} else {
		s.set(phaseReady, nil)
	}
	<-s.end
	s.set(phaseStopping, startErr)
	if s.rig != nil {
		err = s.rig.stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "teardown:", err)
	}
	// A `down` waits for its answer.
	grace, done := context.WithTimeout(context.Background(), time.Second)
	defer done()
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	server.Shutdown(grace)
	return errors.Join(startErr, err)
}

func (s *supervisor) start(ctx context.Context, opts options) error {
	r, err := newRig(opts.dir, opts.tier, newProgress(s, opts.verbose))
	if err != nil {
		return err
	}
	s.rig = r
	data, err := json.Marshal(rigFile{Slot: r.slot, Tier: opts.tier})
	if err != nil {
		return err
	}
	if err := writeFile(rigFilePath(opts.dir), data, 0o600); err != nil {
		return err
	}
	return r.start(ctx)
}

func (s *supervisor) set(phase string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase, s.err = phase, err
}

func (s *supervisor) finish() { s.endOnce.Do(func() { close(s.end) }) }

func (s *supervisor) own(pid int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pid == 0 {
		s.forever = true
		return nil
	}
	who, err := ownerOf(pid)
	if err != nil {
		return err
	}
	s.owners[who] = true
	return nil
}

// watchOwners ends the rig when the last owner has gone.
func (s *supervisor) watchOwners(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(500 * time.Millisecond):
		}
		s.mu.Lock()
		for who := range s.owners {
			if !who.alive() {
				delete(s.owners, who)
			}
		}
		over := len(s.owners) == 0 && !s.forever
		s.mu.Unlock()
		if over {
			fmt.Fprintln(os.Stderr, "every owner has exited")
			s.finish()
			return
		}
	}
}

func (s *supervisor) report(from int) report {
	s.mu.Lock()
	answer := report{Phase: s.phase, Lines: []string{}}
	if from < len(s.lines) {
		answer.Lines = append(answer.Lines, s.lines[from:]...)
	}
	if s.err != nil {
		answer.Error = s.err.Error()
	}
	ready := s.phase == phaseReady
	s.mu.Unlock()
	if ready {
		now := s.rig.snapshot()
		answer.State = &now
	}
	return answer
}

func (s *supervisor) routes() http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any, err error) {
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			v = report{Error: err.Error()}
		}
		json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /report", func(w http.ResponseWriter, r *http.Request) {
		var from int
		fmt.Sscan(r.FormValue("from"), &from)
		answer(w, s.report(from), nil)
	})
	mux.HandleFunc("POST /owners", func(w http.ResponseWriter, r *http.Request) {
		var pid int
		fmt.Sscan(r.FormValue("pid"), &pid)
		answer(w, s.report(0), s.own(pid))
	})
	mux.HandleFunc("POST /nodes", func(w http.ResponseWriter, r *http.Request) {
		if err := s.mayChangeNodes(); err != nil {
			answer(w, nil, err)
			return
		}
		n, err := s.rig.addNode(r.FormValue("arch"), r.FormValue("reserved-for"), r.FormValue("in-place-of"))
		if err != nil {
			answer(w, nil, err)
			return
		}
		if err := s.rig.awaitNode(r.Context(), n); err != nil {
			s.rig.removeNode(context.Background(), n.Name)
			answer(w, nil, err)
			return
		}
		answer(w, nodeState{n.Name, n.Arch}, nil)
	})
	mux.HandleFunc("DELETE /nodes/{name}", func(w http.ResponseWriter, r *http.Request) {
		err := s.mayChangeNodes()
		if err == nil {
			err = s.rig.removeNode(r.Context(), r.PathValue("name"))
		}
		answer(w, report{}, err)
	})
	mux.HandleFunc("POST /flux", func(w http.ResponseWriter, r *http.Request) {
		answer(w, report{}, s.rig.startFlux(r.Context()))
	})
	mux.HandleFunc("POST /down", func(w http.ResponseWriter, r *http.Request) {
		s.finish()
		answer(w, s.report(0), nil)
	})
	return mux
}

func (s *supervisor) mayChangeNodes() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != phaseReady {
		return fmt.Errorf("the rig is %s, not ready", s.phase)
	}
	if s.rig.state.Tier != tierNodes {
		return fmt.Errorf("this rig has the control plane only; nodes need root on Linux: devcluster up --tier nodes")
	}
	return nil
}
