// Package agentsandbox is what sandboxes have in common that are virtual machines with the guest agent
// as init: files to boot from, operations over package agentproto, what becomes of them when the
// machine ends, and the errors of all that. A driver adds the machine itself.
package agentsandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/sandbox"
)

// Machine is a virtual machine. Its methods may be called concurrently.
type Machine interface {
	// Exited is closed when the machine has ended.
	Exited() <-chan struct{}
	// Explain adds to err, which stems from the machine's end, what it said last. It waits a moment for
	// that end.
	Explain(err error) error
	// Kill ends the machine and returns when Exited is closed.
	Kill()
	// Close kills it and frees everything. It is idempotent.
	Close() error
}

// Channel leads to the agent of a machine.
type Channel interface {
	// Dial opens a connection for one operation.
	Dial(ctx context.Context) (net.Conn, error)
	// Lost is closed when the agent cannot be reached any more. It is nil if only the end of the machine
	// tells that.
	Lost() <-chan struct{}
	// Close ends what uses the channel. It is idempotent.
	Close()
}

// Config is what a Sandbox is made of.
type Config struct {
	System  string
	ID      string
	Spec    sandbox.Spec // with defaults
	Machine Machine      // running; the sandbox owns it
	// Keep is agentproto.Client's.
	Keep bool
	// Forget is called when the sandbox was closed.
	Forget func()
}

// Sandbox implements sandbox.Sandbox and StatsReader with a machine. Before BringUp only Close may be
// called.
type Sandbox struct {
	// Client operates the agent.
	Client agentproto.Client

	cfg     Config
	channel Channel // nil before BringUp

	// alive ends with the machine; its cause is the error that every method then returns.
	alive context.Context
	end   context.CancelCauseFunc

	closing  sync.Once
	closeErr error
}

// New returns a sandbox on a machine that is starting.
func New(cfg Config) *Sandbox {
	s := &Sandbox{cfg: cfg, Client: agentproto.Client{Keep: cfg.Keep}}
	s.alive, s.end = context.WithCancelCause(context.Background())
	return s
}

// bootPatience is how long a machine may take until its agent answers. It takes a second or two; a
// host with a hundred runnable processes a CPU was seen to need ten times as long.
const bootPatience = 3 * time.Minute

// BringUp makes a machine that was just started ready for Exec: connect opens the channel, and the
// agent is told, by introduce, what the guest is to be; usually that is Configure. The caller closes
// the sandbox if it fails.
func (s *Sandbox) BringUp(ctx context.Context, connect func(context.Context) (Channel, error),
	introduce func(context.Context, agentproto.Config) error) error {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	died := make(chan struct{})
	go func() { // a machine that dies meanwhile must not be waited for
		select {
		case <-s.cfg.Machine.Exited():
			close(died)
			cancel()
		case <-ctx.Done():
		}
	}()
	channel, err := connect(ctx)
	if err == nil {
		s.channel, s.Client.Dial = channel, channel.Dial
		err = introduce(ctx, s.guestConfig())
	}
	if err == nil {
		go s.watch()
		return nil
	}
	const text = "the machine did not come up"
	select {
	case <-died:
		return s.cfg.Machine.Explain(errors.New(text))
	default:
	}
	if ctx.Err() != nil && caller.Err() == nil {
		s.cfg.Machine.Kill()
		return s.cfg.Machine.Explain(fmt.Errorf("%s in %v", text, bootPatience))
	}
	if broken(err) && s.endsSoon() {
		return s.cfg.Machine.Explain(errors.New(text))
	}
	return err
}

// Introduce tells the agent of a machine that was brought up ahead, and not used since, what the guest is to be.
func (s *Sandbox) Introduce(ctx context.Context, op string, introduce func(context.Context, agentproto.Config) error) error {
	return s.Operate(ctx, op, func(ctx context.Context) error { return introduce(ctx, s.guestConfig()) })
}

// Configure is the usual introduction of a machine that has booted.
func (s *Sandbox) Configure(ctx context.Context, cfg agentproto.Config) error {
	return s.Client.Configure(ctx, cfg)
}

// seedSize is that of the kernel's own key.
const seedSize = 32

// guestConfig makes the guest this sandbox and no other.
func (s *Sandbox) guestConfig() agentproto.Config {
	seed := make([]byte, seedSize)
	rand.Read(seed) // never fails
	return agentproto.Config{
		Hostname: s.cfg.ID, Now: time.Now(), Entropy: seed, Processes: s.cfg.Spec.Processes,
		MemoryBytes: int64(s.cfg.Spec.MemoryMiB) << 20,
	}
}

// watch ends the sandbox when the machine dies or the agent is lost.
func (s *Sandbox) watch() {
	select {
	case <-s.alive.Done():
		return
	case <-s.cfg.Machine.Exited():
	case <-s.channel.Lost():
	}
	// Without its agent a machine is of no use. But the agent is lost first when the machine ends
	// by itself, and then it has something to say.
	if !s.endsSoon() {
		s.cfg.Machine.Kill()
	}
	err := s.cfg.Machine.Explain(errors.New("the machine ended"))
	remedy := "create another sandbox"
	if errors.Is(err, ErrMemory) {
		remedy += ", with more memory, and close sandboxes if the host has none left"
	}
	s.end(&sandbox.Error{System: s.cfg.System, Sandbox: s.cfg.ID, Err: sandbox.ErrDead, Detail: err.Error(), Remedy: remedy})
	s.Client.Close()
	s.channel.Close()
}

// lastWords is how long a machine whose agent is lost may take to end by itself: a kernel that panics waits for
// its other processors, and the host may be busy.
const lastWords = 5 * time.Second

// endsSoon tells whether the machine has ended, for which it waits a moment.
func (s *Sandbox) endsSoon() bool {
	timeout := time.NewTimer(lastWords)
	defer timeout.Stop()
	select {
	case <-s.cfg.Machine.Exited():
		return true
	case <-timeout.C:
		return false
	}
}

// ID is sandbox.Sandbox's.
func (s *Sandbox) ID() string { return s.cfg.ID }

// Operate does something with the guest for as long as both the caller and the machine want it. It
// makes an error of f one of the contract.
func (s *Sandbox) Operate(ctx context.Context, op string, f func(context.Context) error) error {
	if err := s.Ended(op); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.alive, cancel)()
	err := f(ctx)
	if err == nil {
		return nil
	}
	if err := s.Ended(op); err != nil {
		return err
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return ctx.Err()
	}
	if _, ok := errors.AsType[agentproto.Failure](err); !ok && s.lost(err) {
		<-s.alive.Done() // watch is about to say why
		return s.Ended(op)
	}
	return Typed(op, s.cfg.System, s.cfg.ID, err)
}

// lost tells whether err comes from an agent, or a machine, that is gone.
func (s *Sandbox) lost(err error) bool {
	select {
	case <-s.channel.Lost():
		return true
	case <-s.cfg.Machine.Exited():
		return true
	default:
		return broken(err) && s.endsSoon()
	}
}

// Ended is the error of an operation on a machine that is no more; nil as long as it lives.
func (s *Sandbox) Ended(op string) error {
	if s.alive.Err() == nil {
		return nil
	}
	cause := context.Cause(s.alive)
	if e, ok := errors.AsType[*sandbox.Error](cause); ok {
		copied := *e
		copied.Op = op
		return &copied
	}
	return cause
}

// Close is sandbox.Sandbox's.
func (s *Sandbox) Close() error {
	s.closing.Do(func() {
		s.end(sandbox.Closed("use", s.cfg.System, s.cfg.ID))
		s.Client.Close()
		if err := s.cfg.Machine.Close(); err != nil {
			s.closeErr = fmt.Errorf("close %s: %w", s.cfg.ID, err)
		}
		if s.channel != nil {
			s.channel.Close()
		}
		s.cfg.Forget()
	})
	return s.closeErr
}
