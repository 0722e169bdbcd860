package qemu

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"syscall"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/guest/files"
	"github.com/aethervm/aether/sandbox"
)

// Sandbox is a virtual machine. Beside sandbox.Sandbox it implements Pauser, Snapshotter, Inspector
// and StatsReader.
type Sandbox struct {
	id      string
	spec    sandbox.Spec
	about   about
	config  machineConfig
	machine *machine
	channel *channel
	forget  func()

	// alive ends with the machine; its cause is the error that every method then returns.
	alive context.Context
	end   context.CancelCauseFunc

	// state guards what the machine as a whole is doing: pause, resume, snapshot.
	state  sync.Mutex
	paused bool

	closing  sync.Once
	closeErr error
}

// seedSize is that of the kernel's own key.
const seedSize = 32

// bootPatience is how long a machine may take until its agent answers. It takes a second or two; a
// host with a hundred runnable processes a CPU was seen to need ten times as long.
const bootPatience = 3 * time.Minute

// bringUp makes a machine that was just started ready for Exec.
func (s *Sandbox) bringUp(ctx context.Context, restored bool) error {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	died := make(chan struct{})
	go func() { // a machine that dies meanwhile must not be waited for
		select {
		case <-s.machine.exited:
			close(died)
			cancel()
		case <-ctx.Done():
		}
	}()
	err := s.introduce(ctx, restored)
	if err != nil {
		select {
		case <-died:
			return s.machine.explain(errors.New("the machine did not come up"))
		default:
		}
		if ctx.Err() != nil && caller.Err() == nil {
			s.machine.kill()
			return s.machine.explain(fmt.Errorf("the machine did not come up in %v", bootPatience))
		}
		return err
	}
	go s.watch()
	return nil
}

func (s *Sandbox) introduce(ctx context.Context, restored bool) error {
	if restored {
		if err := s.resumeRestored(ctx); err != nil {
			return err
		}
	}
	var err error
	if s.channel, err = openChannel(ctx, s.machine); err != nil {
		return err
	}
	if restored {
		// Programs are still frozen: they see nothing of the past.
		err = s.channel.client.Thaw(ctx, s.guestConfig())
	} else {
		err = s.channel.client.Configure(ctx, s.guestConfig())
	}
	if err != nil {
		s.channel.close()
	}
	return err
}

// guestConfig makes the guest this sandbox and no other.
func (s *Sandbox) guestConfig() agentproto.Config {
	seed := make([]byte, seedSize)
	rand.Read(seed) // never fails
	return agentproto.Config{
		Hostname: s.id, Now: time.Now(), Entropy: seed, Processes: s.spec.Processes,
		MemoryBytes: int64(s.spec.MemoryMiB) << 20,
	}
}

// watch ends the sandbox when the machine dies or the agent is lost.
func (s *Sandbox) watch() {
	select {
	case <-s.alive.Done():
		return
	case <-s.machine.exited:
	case <-s.channel.session.CloseChan():
	}
	// Without its agent a machine is of no use. But the agent is lost first when the machine ends
	// by itself, and then it has something to say.
	select {
	case <-s.machine.exited:
	case <-time.After(lastWords):
		s.machine.kill()
	}
	err := s.machine.explain(errors.New("the machine ended"))
	s.end(&sandbox.Error{System: System, Sandbox: s.id, Err: sandbox.ErrDead, Detail: err.Error(),
		Remedy: "create another sandbox"})
	s.channel.close()
}

// lastWords is how long a machine whose agent is lost may take to end by itself.
const lastWords = 500 * time.Millisecond

// ID is sandbox.Sandbox's.
func (s *Sandbox) ID() string { return s.id }

// Exec is sandbox.Sandbox's.
func (s *Sandbox) Exec(ctx context.Context, cmd sandbox.Cmd) (sandbox.Exit, error) {
	start := time.Now()
	if err := cmd.Check(); err != nil {
		return sandbox.Exit{}, err
	}
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	var exit agentproto.Exit
	err := s.operate(ctx, "exec", func(ctx context.Context) (err error) {
		exit, err = s.channel.client.Exec(ctx, agentproto.Exec{
			Args: cmd.Args, Env: sandbox.Environ(s.spec.Image.Env, s.spec.Env, cmd.Env), Dir: cmd.Dir, Timeout: cmd.Timeout,
		}, cmd.Stdin, cmd.Stdout, cmd.Stderr)
		return err
	})
	if err != nil {
		return sandbox.Exit{}, err
	}
	return sandbox.Exit{Code: exit.Code, Signal: exit.Signal, TimedOut: exit.TimedOut, Duration: time.Since(start)}, nil
}

// ReadFile is sandbox.Files'.
func (s *Sandbox) ReadFile(ctx context.Context, name string, w io.Writer) error {
	return s.onFile(ctx, "read", name, func(ctx context.Context) error { return s.channel.client.ReadFile(ctx, name, w) })
}

// WriteFile is sandbox.Files'.
func (s *Sandbox) WriteFile(ctx context.Context, name string, r io.Reader, perm fs.FileMode) error {
	return s.onFile(ctx, "write", name, func(ctx context.Context) error { return s.channel.client.WriteFile(ctx, name, r, perm) })
}

// ReadDir is sandbox.Files'.
func (s *Sandbox) ReadDir(ctx context.Context, name string) (list []sandbox.FileInfo, err error) {
	err = s.onFile(ctx, "list", name, func(ctx context.Context) (err error) {
		list, err = s.channel.client.ReadDir(ctx, name)
		return err
	})
	return list, err
}

// Stat is sandbox.Files'.
func (s *Sandbox) Stat(ctx context.Context, name string) (info sandbox.FileInfo, err error) {
	err = s.onFile(ctx, "stat", name, func(ctx context.Context) (err error) {
		info, err = s.channel.client.Stat(ctx, name)
		return err
	})
	return info, err
}

// Remove is sandbox.Files'.
func (s *Sandbox) Remove(ctx context.Context, name string) error {
	return s.onFile(ctx, "remove", name, func(ctx context.Context) error { return s.channel.client.Remove(ctx, name) })
}

func (s *Sandbox) onFile(ctx context.Context, op, name string, f func(context.Context) error) error {
	if err := sandbox.CheckPath(name); err != nil {
		return err
	}
	return s.operate(ctx, op, f)
}

// operate does something with the guest for as long as both the caller and the machine want it.
func (s *Sandbox) operate(ctx context.Context, op string, f func(context.Context) error) error {
	if s.alive.Err() != nil {
		return s.ended(op)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.alive, cancel)()
	err := f(ctx)
	switch {
	case err == nil:
		return nil
	case s.alive.Err() != nil:
		return s.ended(op)
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return ctx.Err()
	}
	if _, ok := errors.AsType[agentproto.Failure](err); !ok && s.lost() {
		<-s.alive.Done()
		return s.ended(op)
	}
	return typed(op, s.id, err)
}

// lost tells whether the agent is gone, which watch is about to report.
func (s *Sandbox) lost() bool { return s.channel.session.IsClosed() }

// ended is the error of an operation on a machine that is no more.
func (s *Sandbox) ended(op string) error {
	cause := context.Cause(s.alive)
	if e, ok := errors.AsType[*sandbox.Error](cause); ok {
		copied := *e
		copied.Op = op
		return &copied
	}
	return cause
}

// typed makes a sandbox.Error of any error that is none yet.
func typed(op, id string, err error) error {
	if _, ok := errors.AsType[*sandbox.Error](err); ok {
		return err
	}
	e := &sandbox.Error{Op: op, System: System, Sandbox: id, Err: err}
	var failure agentproto.Failure
	switch {
	case errors.As(err, &failure):
		e.Detail = failure.Text
		if e.Err = failure.Unwrap(); e.Err == nil {
			e.Err = errors.New("the guest refused")
		}
		switch failure.Code {
		case agentproto.FailNoSpace:
			e.Remedy = "the sandbox's own file system is full: its files live in its memory; remove some, or give it more"
		case agentproto.FailLimit:
			e.Remedy = "the sandbox has reached its limit of processes or memory; give it more, or end some"
		case agentproto.FailCannotRun:
			e.Remedy = "is the program in the image, executable, and the working directory there?"
		default:
			e.Remedy = files.Remedy(e.Err)
		}
	case errors.Is(err, syscall.ENOSPC):
		e.Err, e.Detail = sandbox.ErrNoSpace, err.Error()
	}
	return e
}

// Close is sandbox.Sandbox's.
func (s *Sandbox) Close() error {
	s.closing.Do(func() {
		s.end(sandbox.Closed("use", System, s.id))
		if err := s.machine.close(); err != nil {
			s.closeErr = fmt.Errorf("close %s: %w", s.id, err)
		}
		s.channel.close()
		s.forget()
	})
	return s.closeErr
}
