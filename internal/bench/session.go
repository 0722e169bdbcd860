package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/head"
	"github.com/aethervm/aether/sandbox"
)

// cleanupLimit bounds the freeing of one snapshot.
const cleanupLimit = 2 * time.Minute

// session is one execution of a step on one system. It owns every sandbox and snapshot that the
// step makes. Its methods may be called concurrently.
type session struct {
	driver sandbox.Driver
	spec   sandbox.Spec
	info   planInfo
	memory memory
	prober prober
	surfer surfer
	// scratch is where snapshots go.
	scratch *scratch
	// files is the results directory.
	files *directory
	// emit records a value.
	emit func(Sample) error

	mu        sync.Mutex
	over      bool // nothing is recorded or opened any more
	err       error
	sandboxes []sandbox.Sandbox
	snapshots []sandbox.Snapshot
}

var errOver = errors.New("the step is over")

// value records a sample.
func (s *session) value(name string, value float64, unit string) {
	s.record(Sample{Name: name, Value: value, Unit: unit})
}

func (s *session) since(name string, start time.Time) {
	s.value(name, millis(time.Since(start)), "ms")
}

func (s *session) record(sample Sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over && s.err == nil {
		s.err = s.emit(sample)
	}
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// create starts a sandbox that is closed with the session at the latest.
func (s *session) create(ctx context.Context) (sandbox.Sandbox, error) {
	sb, err := s.driver.Create(ctx, s.spec)
	if err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	return sb, s.own(sb)
}

// own makes the session close sb.
func (s *session) own(sb sandbox.Sandbox) error {
	s.mu.Lock()
	over := s.over
	if !over {
		s.sandboxes = append(s.sandboxes, sb)
	}
	s.mu.Unlock()
	if over { // the step was given up while sb was being made
		return errors.Join(errOver, sb.Close())
	}
	return nil
}

// ownSnapshot makes the session remove snap.
func (s *session) ownSnapshot(snap sandbox.Snapshot) error {
	if err := s.scratch.remember(snap); err != nil {
		return err
	}
	s.mu.Lock()
	s.snapshots = append(s.snapshots, snap)
	s.mu.Unlock()
	return nil
}

// end makes the session record and open nothing any more, and returns the error of recording, if
// there was one.
func (s *session) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	return s.err
}

// close frees what a session that has ended owns: sandboxes at once, then snapshots.
func (s *session) close(ctx context.Context) error {
	s.mu.Lock()
	sandboxes, snapshots := s.sandboxes, s.snapshots
	s.sandboxes, s.snapshots = nil, nil
	s.mu.Unlock()

	errs := make([]error, len(sandboxes))
	var wg sync.WaitGroup
	for i, sb := range sandboxes {
		wg.Go(func() { errs[i] = sb.Close() })
	}
	wg.Wait()
	if r, ok := s.driver.(sandbox.Restorer); ok {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
		defer cancel()
		for _, snap := range snapshots {
			err := r.RemoveSnapshot(ctx, snap)
			if err == nil {
				err = s.scratch.forget(snap)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// maxKept bounds what is kept of what a guest writes, in bytes: it does not fill the host's memory.
const maxKept = 1 << 20

// run executes argv in sb and returns its standard output; anything but success is an error.
func run(ctx context.Context, sb sandbox.Sandbox, argv ...string) (string, error) {
	return runCmd(ctx, sb, sandbox.Cmd{Args: argv})
}

func runCmd(ctx context.Context, sb sandbox.Sandbox, cmd sandbox.Cmd) (string, error) {
	stdout, stderr := head.New(maxKept), head.New(maxKept)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	exit, err := sb.Exec(ctx, cmd)
	name := strings.Join(cmd.Args, " ")
	if len(name) > 60 {
		name = name[:60] + "..."
	}
	if err != nil {
		return "", fmt.Errorf("exec %q: %w", name, err)
	}
	if !exit.Success() {
		return stdout.String(), fmt.Errorf("exec %q: %s: %s", name, exit, firstLine(stderr.String()))
	}
	return stdout.String(), nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	if len(line) > 200 {
		line = line[:200] + "..."
	}
	return line
}
