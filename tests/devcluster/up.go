package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// call asks the supervisor of the rig in dir.
func call(dir, method, path string, form url.Values, into any) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return dialSocket(dir) },
	}}
	request, err := http.NewRequest(method, "http://supervisor"+path+"?"+form.Encode(), nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		var failed report
		json.NewDecoder(response.Body).Decode(&failed)
		return errors.New(failed.Error)
	}
	return json.NewDecoder(response.Body).Decode(into)
}

func up(opts options) error {
	p := newProgress(os.Stderr, opts.verbose)
	if opts.ownerPID != 0 {
		if _, err := ownerOf(opts.ownerPID); err != nil {
			return err
		}
	}
	lock, err := lockUp(opts.dir, p)
	if err != nil {
		return err
	}
	defer lock.Close()
	running, err := running(opts)
	if err != nil {
		return err
	}
	if running != nil {
		return printJSON(running)
	}
	if err := cleanUp(opts.dir); err != nil {
		return fmt.Errorf("clean up after an earlier rig: %w", err)
	}
	opts.tier, err = prepare(opts, p)
	if err != nil {
		return err
	}
	process, err := startSupervisor(opts)
	if err != nil {
		return err
	}
	ready, err := follow(opts.dir, process, p)
	if err != nil {
		down(opts)
		return err
	}
	p.say("ready: export KUBECONFIG=%s", ready.Kubeconfig)
	return printJSON(ready)
}

func lockUp(dir string, p *progress) (*os.File, error) {
	path := filepath.Join(dir, "up.lock")
	lock, err := lockFile(path, false)
	if errors.Is(err, errLocked) {
		p.say("another devcluster works on %s: waiting for it", dir)
		lock, err = lockFile(path, true)
	}
	return lock, err
}

// running returns the state of a healthy rig, and makes the caller an owner of it.
func running(opts options) (*state, error) {
	var now report
	if call(opts.dir, http.MethodGet, "/report", nil, &now) != nil || now.Phase != phaseReady || !healthy(now.State) {
		return nil, nil
	}
	if opts.tier != tierAuto && opts.tier != now.State.Tier {
		return nil, fmt.Errorf("the rig in %s runs with tier %s: run `devcluster down` first, or use another --dir", opts.dir, now.State.Tier)
	}
	form := url.Values{"pid": {strconv.Itoa(opts.ownerPID)}}
	if err := call(opts.dir, http.MethodPost, "/owners", form, &now); err != nil {
		return nil, err
	}
	return now.State, nil
}

func healthy(s *state) bool {
	if s == nil {
		return false
	}
	client, err := newKube("https://"+hostPort(s.Address, portAPIServer), &pki{dir: filepath.Join(s.Dir, "pki")})
	if err != nil {
		return false
	}
	return waitFor(context.Background(), 5*time.Second, "the API server", func() error {
		return client.get(context.Background(), "/readyz", nil)
	}) == nil
}

func startSupervisor(opts options) (*os.Process, error) {
	logFile := filepath.Join(opts.dir, "logs", "supervisor.log")
	if err := os.MkdirAll(filepath.Dir(logFile), 0o755); err != nil {
		return nil, err
	}
	out, err := os.Create(logFile)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	args := []string{"supervise", "--dir", opts.dir, "--tier", opts.tier, "--owner-pid", strconv.Itoa(opts.ownerPID)}
	if opts.verbose {
		args = append(args, "-v")
	}
	cmd := exec.Command(filepath.Join(opts.dir, "bin", "devcluster"), args...)
	cmd.Env = append(os.Environ(), markVariable+"="+opts.dir)
	cmd.Dir = opts.dir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the rig's supervisor: %w", err)
	}
	return cmd.Process, nil
}

// follow prints the supervisor's progress until the rig is ready or has failed.
func follow(dir string, process *os.Process, p *progress) (*state, error) {
	interrupted, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	exited := make(chan struct{})
	go func() {
		process.Wait()
		close(exited)
	}()
	seen := 0
	for {
		var now report
		err := call(dir, http.MethodGet, "/report", url.Values{"from": {strconv.Itoa(seen)}}, &now)
		for _, line := range now.Lines {
			fmt.Fprintln(p.out, line)
		}
		seen += len(now.Lines)
		switch {
		case err == nil && now.Phase == phaseReady:
			return now.State, nil
		case err == nil && now.Phase != phaseStarting:
			return nil, fmt.Errorf("the rig did not start: %s (logs in %s)", now.Error, filepath.Join(dir, "logs"))
		}
		select {
		case <-exited:
			return nil, fmt.Errorf("the rig's supervisor ended; see %s", filepath.Join(dir, "logs", "supervisor.log"))
		case <-interrupted.Done():
			return nil, errors.New("interrupted: the rig is taken down again")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func down(opts options) error {
	var now report
	if call(opts.dir, http.MethodPost, "/down", nil, &now) == nil {
		// The supervisor cleans up itself; what it does not manage in time is done below.
		retry(30*time.Second, func() error {
			if len(markedProcesses(opts.dir)) > 0 {
				return errors.New("still there")
			}
			return nil
		})
	}
	return cleanUp(opts.dir)
}

// cleanUp removes what a rig in dir left, whoever ended it. It does nothing to other rigs.
func cleanUp(dir string) error {
	if !exists(dir) {
		return nil
	}
	if err := killMarked(dir); err != nil {
		return err
	}
	last, known, err := readRigFile(dir)
	if err != nil {
		return err
	}
	if known && last.Tier == tierNodes {
		if os.Geteuid() != 0 {
			return fmt.Errorf("the rig in %s had nodes: run this as root", dir)
		}
		machine, err := machineDir()
		if err != nil {
			return err
		}
		// A supervisor that was just killed holds its slot until the kernel has closed its files.
		var lock *os.File
		err = retry(3*time.Second, func() (err error) {
			lock, err = lockFile(slotLockPath(machine, last.Slot), false)
			return err
		})
		switch {
		case errors.Is(err, errLocked): // another rig has this slot now, and has cleaned it
		case err != nil:
			return err
		default:
			err := (&host{machine, last.Slot}).restore()
			releaseSlot(machine, last.Slot, lock)
			removeMachineDir(machine)
			if err != nil {
				return err
			}
		}
	}
	return removeData(dir)
}

func status(opts options) error {
	var now report
	if err := call(opts.dir, http.MethodGet, "/report", nil, &now); err != nil || now.State == nil {
		if now.Phase != "" {
			fmt.Fprintf(os.Stderr, "the rig in %s is %s\n", opts.dir, now.Phase)
		} else {
			fmt.Fprintf(os.Stderr, "no rig runs in %s\n", opts.dir)
		}
		return errQuiet
	}
	if opts.output == "json" {
		return printJSON(now.State)
	}
	s := now.State
	fmt.Printf("tier      %s\naddress   %s\nregistry  %s\ngit       %s\nkubectl   %s\n", s.Tier, s.Address, s.Registry, s.Git.URL, s.Kubectl)
	for _, n := range s.Nodes {
		fmt.Printf("node      %s (%s), pid %d\n", n.Name, n.Arch, s.Pids[n.Name])
	}
	return nil
}

func changeNode(opts options, command, argument string) error {
	if command == "node remove" {
		return call(opts.dir, http.MethodDelete, "/nodes/"+url.PathEscape(argument), nil, &report{})
	}
	var added nodeState
	form := url.Values{"arch": {argument}, "reserved-for": {opts.reserved}, "in-place-of": {opts.inPlaceOf}}
	if err := call(opts.dir, http.MethodPost, "/nodes", form, &added); err != nil {
		return err
	}
	return printJSON(added)
}
