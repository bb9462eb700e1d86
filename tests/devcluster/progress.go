package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

const heartbeat = 10 * time.Second

// progress prints one short line a step, and one every ten seconds while a step lasts.
type progress struct {
	out     io.Writer
	verbose bool
	start   time.Time
	mu      sync.Mutex
}

func newProgress(out io.Writer, verbose bool) *progress {
	return &progress{out: out, verbose: verbose, start: time.Now()}
}

func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%6.1fs  %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}

func (p *progress) debug(format string, args ...any) {
	if p.verbose {
		p.say(format, args...)
	}
}

// step runs work and says that it is still running; `note` may add what is known of its progress.
func (p *progress) step(title string, note func() string, work func() error) error {
	p.say("%s", title)
	began := time.Now()
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		ticker := time.NewTicker(heartbeat)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				extra := ""
				if note != nil {
					extra = note()
				}
				p.say("%s: %s so far%s", title, time.Since(began).Round(time.Second), extra)
			}
		}
	})
	err := work()
	close(stop)
	done.Wait()
	if took := time.Since(began); err == nil && took > time.Second {
		p.say("%s: done in %s", title, took.Round(100*time.Millisecond))
	}
	return err
}
