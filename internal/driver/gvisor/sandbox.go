package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/guestagent"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/internal/oneshot"
	"github.com/aethervm/aether/sandbox"
)

// Sandbox is a gVisor sandbox. Exec and the files are those of package oneshot, on runsc exec.
type Sandbox struct {
	*oneshot.Runner

	id     string
	dir    string // all its files; below the lease's directory
	spec   sandbox.Spec
	runsc  *runsc
	group  group
	sentry *process
	owned  *ownership
	// forget takes it off its driver's list.
	forget func()

	// alive ends when Close begins.
	alive context.Context
	end   context.CancelFunc
	// calls counts runs of runsc on behalf of others than Close.
	calls sync.WaitGroup

	closing  sync.Once
	closeErr error

	mu     sync.Mutex
	closed bool
	// paused is guarded by pausing, which is held for as long as it takes to pause or resume.
	pausing sync.Mutex
	paused  bool
}

// Names in a sandbox's directory.
const (
	rootName  = "root"  // runsc's state
	panicName = "panic" // the sentry's last words
	pidName   = "pid"   // of the sentry
)

// diskSize bounds what one sandbox can write to its root file system.
const diskSize = "8g"

// launch starts a sandbox in a directory of its own. With image, a directory with a checkpoint, it
// goes on from that. On error nothing is left.
func launch(ctx context.Context, rt *runtime, owned *ownership, spec sandbox.Spec, image string) (_ *Sandbox, err error) {
	agent, err := guestagent.Path()
	if err != nil {
		return nil, fmt.Errorf("find the guest agent: %w", err)
	}
	id := lease.NewID()
	dir := filepath.Join(owned.Dir, id)
	s := &Sandbox{
		id:     id,
		dir:    dir,
		spec:   spec,
		runsc:  &runsc{path: rt.path, root: filepath.Join(dir, rootName)},
		group:  groupFor(owned.ID, id),
		owned:  owned,
		forget: func() {},
	}
	s.alive, s.end = context.WithCancel(context.Background())
	s.Runner = oneshot.New(System, id, sandbox.Environ(spec.Image.Env, spec.Env), s.runProgram)
	if err := os.MkdirAll(s.runsc.root, 0o700); err != nil {
		return nil, fmt.Errorf("make the sandbox's directory: %w", err)
	}
	defer func() {
		if err != nil {
			s.end()
			err = errors.Join(err, s.destroy())
		}
	}()
	if err := (bundle{id: id, spec: spec, agent: agent, cgroup: s.group, swap: limitsSwap()}).write(dir); err != nil {
		return nil, err
	}
	v := invocation{op: "run", global: []string{
		"--platform=" + rt.platform,
		"--network=none",
		// The gofer needs no network either, and a namespace of its own, unlike the default of one
		// for all, needs no mount on the host. It takes no longer.
		"--gofer-network-namespace=new",
		// The image is shared and stays as it is. What is written goes to a file on the host's disk,
		// without a name, whose cached pages count against the sandbox's memory limit and can be
		// evicted: in memory, a sandbox that fills its disk would end.
		"--overlay2=root:dir=" + owned.disks + ",size=" + diskSize,
		"--panic-log=" + filepath.Join(dir, panicName),
	}}
	v.args = []string{"--bundle", dir, "--detach", "--pid-file", filepath.Join(dir, pidName)}
	if image != "" {
		v.op = "restore"
		v.args = append(v.args, "--image-path", image)
	}
	v.args = append(v.args, id)
	code, err := s.runsc.run(ctx, v)
	if err == nil && code != 0 {
		err = &runscError{op: v.op, detail: fmt.Sprintf("exit %d", code)}
	}
	if err != nil {
		return nil, s.withPanic(err)
	}
	if s.sentry, err = s.openSentry(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Sandbox) openSentry() (*process, error) {
	content, err := os.ReadFile(filepath.Join(s.dir, pidName))
	if err != nil {
		return nil, fmt.Errorf("find the sentry: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil || pid <= 1 {
		return nil, fmt.Errorf("find the sentry: its PID reads %q", content)
	}
	p, err := openProcess(pid)
	if err != nil {
		return nil, s.withPanic(fmt.Errorf("find the sentry: %w", err))
	}
	return p, nil
}

// ID is sandbox.Sandbox's.
func (s *Sandbox) ID() string { return s.id }

// begin registers a call on a sandbox and returns a context that ends with ctx or the sandbox's
// Close, or the error that every method returns on a sandbox that is gone.
func (s *Sandbox) begin(ctx context.Context, op string) (context.Context, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, s.closedError(op)
	}
	if s.sentry.ended() {
		return nil, nil, s.deadError(op)
	}
	s.calls.Add(1)
	ctx, cancel := either(ctx, s.alive)
	return ctx, func() { cancel(); s.calls.Done() }, nil
}

// fail explains the error of a call: what became of the sandbox takes precedence over what came of
// that, and so does the end of the caller's context.
func (s *Sandbox) fail(ctx context.Context, op string, err error) error {
	switch {
	case s.alive.Err() != nil:
		return s.closedError(op)
	case s.sentry.ended():
		return s.deadError(op)
	case ctx.Err() != nil:
		return ctx.Err()
	case s.endsSoon():
		return s.deadError(op)
	}
	return typed(op, s.id, err)
}

// endsSoon tells whether the sentry has ended. A dying sentry's connections break a moment before
// the process is gone, so it looks for a while; it is called on failure only.
func (s *Sandbox) endsSoon() bool {
	for range 20 {
		if s.sentry.ended() {
			return true
		}
		select {
		case <-s.alive.Done():
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
	return false
}

func (s *Sandbox) closedError(op string) error {
	return sandbox.Closed(op, System, s.id)
}

func (s *Sandbox) deadError(op string) error {
	e := &sandbox.Error{Op: op, System: System, Sandbox: s.id, Err: sandbox.ErrDead, Detail: "the sentry has ended",
		Remedy: "close it and create another one"}
	if said := s.lastWords(); said != "" {
		e.Detail += ": " + said
	}
	if s.group.outOfMemory() {
		e.Detail = fmt.Sprintf("the memory limit of %d MiB was exceeded", s.spec.MemoryMiB)
		e.Remedy = "create one with more memory"
	}
	return e
}

func (s *Sandbox) withPanic(err error) error {
	if said := s.lastWords(); said != "" {
		return fmt.Errorf("%w; the sentry said: %s", err, said)
	}
	return err
}

// lastWords returns why the sentry panicked; empty if it did not.
func (s *Sandbox) lastWords() string {
	f, err := os.Open(filepath.Join(s.dir, panicName))
	if err != nil {
		return ""
	}
	defer f.Close()
	return parsePanic(readAll(f))
}

// Close is sandbox.Sandbox's.
func (s *Sandbox) Close() error {
	s.closing.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.end()
		if err := s.destroy(); err != nil {
			s.closeErr = typed("close", s.id, err)
		}
		s.calls.Wait()
		s.closeErr = errors.Join(s.closeErr, s.sentry.close())
		s.forget()
	})
	return s.closeErr
}

// deleteTimeout bounds runsc delete, which takes about 12 ms.
const deleteTimeout = 10 * time.Second

// destroy kills what runs and removes all the sandbox's traces on the host. Where it fails the
// driver will leave its lease to a sweeper.
func (s *Sandbox) destroy() (err error) {
	defer func() {
		if err != nil {
			s.owned.unclean.Store(true)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), deleteTimeout)
	defer cancel()
	if s.sentry != nil {
		// runsc sends it a request to end first, which a paused or busy sentry may not answer.
		_ = s.sentry.kill()
	}
	_, deleteErr := s.runsc.call(ctx, "delete", "--force", s.id)
	if deleteErr != nil || s.sentry == nil || len(s.group.dirs()) > 0 {
		if err := wipe(context.Background(), rootFlag+s.runsc.root, only(s.group)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove the sandbox's directory: %w", err)
	}
	return nil
}
