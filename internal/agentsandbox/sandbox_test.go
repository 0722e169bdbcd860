package agentsandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/guest/serve"
	"github.com/aethervm/aether/sandbox"
)

// fakeMachine is a machine without a guest; its agent serves in this process.
type fakeMachine struct {
	memory bool // it ends for want of memory
	exited chan struct{}
	once   sync.Once
	killed atomic.Bool
	closed atomic.Int32

	mu    sync.Mutex
	conns []net.Conn
}

func newFakeMachine() *fakeMachine { return &fakeMachine{exited: make(chan struct{})} }

func (m *fakeMachine) Exited() <-chan struct{} { return m.exited }
func (m *fakeMachine) Kill()                   { m.killed.Store(true); m.die() }
func (m *fakeMachine) Close() error            { m.closed.Add(1); m.die(); return nil }
func (m *fakeMachine) Explain(err error) error {
	if m.memory {
		return fmt.Errorf("%w: %w", err, ErrMemory)
	}
	return fmt.Errorf("%w: fire in the box", err)
}

// die ends the machine: its connections first, as those of a real one.
func (m *fakeMachine) die() {
	m.mu.Lock()
	for _, c := range m.conns {
		_ = c.Close()
	}
	m.mu.Unlock()
	m.once.Do(func() { close(m.exited) })
}

// fakeChannel serves every connection with an agent that runs on guest.
type fakeChannel struct {
	machine *fakeMachine
	guest   *fakeGuest
	lost    chan struct{} // may be nil
	closed  atomic.Int32
}

func (c *fakeChannel) Dial(context.Context) (net.Conn, error) {
	select {
	case <-c.machine.exited:
		return nil, net.ErrClosed
	default:
	}
	host, guest := net.Pipe()
	c.machine.mu.Lock()
	c.machine.conns = append(c.machine.conns, guest)
	c.machine.mu.Unlock()
	go (&serve.Server{Machine: c.guest}).Serve(guest)
	return host, nil
}

func (c *fakeChannel) Lost() <-chan struct{} { return c.lost }
func (c *fakeChannel) Close()                { c.closed.Add(1) }

// fakeGuest is configured and counts; it runs no programs.
type fakeGuest struct {
	serve.Machine
	configured atomic.Pointer[agentproto.Config]
	stats      func() (agentproto.Stats, error)
}

func (g *fakeGuest) Configure(c agentproto.Config) error      { g.configured.Store(&c); return nil }
func (g *fakeGuest) Frozen() bool                             { return false }
func (g *fakeGuest) Stats() (agentproto.Stats, error)         { return g.stats() }
func (g *fakeGuest) Thaw(agentproto.Config) error             { return nil }
func (g *fakeGuest) Freeze() error                            { return nil }
func (g *fakeGuest) never() (agentproto.Stats, error)         { select {} }
func (g *fakeGuest) someStats() (s agentproto.Stats, _ error) { s.Processes = 3; return s, nil }

type fixture struct {
	s         *Sandbox
	machine   *fakeMachine
	channel   *fakeChannel
	guest     *fakeGuest
	forgotten atomic.Int32
}

// up returns a sandbox that was brought up.
func up(t *testing.T) *fixture {
	t.Helper()
	f := made()
	if err := f.s.BringUp(t.Context(), f.connect, f.s.Configure); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.s.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func made() *fixture {
	f := &fixture{machine: newFakeMachine(), guest: &fakeGuest{}}
	f.guest.stats = f.guest.someStats
	f.channel = &fakeChannel{machine: f.machine, guest: f.guest, lost: make(chan struct{})}
	f.s = New(Config{
		System: "sys", ID: "box", Spec: sandbox.Spec{MemoryMiB: 64, Processes: 17}, Machine: f.machine,
		Forget: func() { f.forgotten.Add(1) },
	})
	return f
}

func (f *fixture) connect(context.Context) (Channel, error) { return f.channel, nil }

func TestLife(t *testing.T) {
	f := up(t)
	c := f.guest.configured.Load()
	if c == nil || c.Hostname != "box" || c.MemoryBytes != 64<<20 || c.Processes != 17 || len(c.Entropy) != seedSize || time.Since(c.Now) > time.Minute {
		t.Fatalf("configured %+v", c)
	}
	if st, err := f.s.Stats(t.Context()); err != nil || st.Processes != 3 || f.s.ID() != "box" {
		t.Errorf("got %+v, %v", st, err)
	}
	file := t.TempDir() + "/file"
	if err := f.s.WriteFile(t.Context(), file, strings.NewReader("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := f.s.ReadFile(t.Context(), file, &b); err != nil || b.String() != "text" {
		t.Errorf("read %q, %v", &b, err)
	}
	for range 2 {
		if err := f.s.Close(); err != nil {
			t.Error(err)
		}
	}
	if f.machine.closed.Load() != 1 || f.forgotten.Load() != 1 {
		t.Errorf("closed %d times, forgotten %d times", f.machine.closed.Load(), f.forgotten.Load())
	}
	var e *sandbox.Error
	if _, err := f.s.Stat(t.Context(), "/"); !errors.Is(err, sandbox.ErrClosed) || !errors.As(err, &e) || e.Op != "stat" || e.Sandbox != "box" {
		t.Errorf("after close: %v", err)
	}
}

func TestErrorsAreTyped(t *testing.T) {
	f := up(t)
	var e *sandbox.Error
	_, err := f.s.Stat(t.Context(), t.TempDir()+"/missing")
	if !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &e) || e.System != "sys" || e.Op != "stat" || e.Detail == "" {
		t.Errorf("got %v", err)
	}
	if _, err := f.s.Stat(t.Context(), "relative"); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("got %v", err)
	}
	if err := f.s.WriteFile(t.Context(), t.TempDir()+"/x", failingReader{}, 0o600); !errors.Is(err, errReader) {
		t.Errorf("got %v", err)
	}
	if err := f.s.Ended("use"); err != nil {
		t.Errorf("the sandbox has ended: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.s.Stat(ctx, "/"); !errors.Is(err, context.Canceled) || errors.As(err, &e) && e.Op == "stat" && errors.Is(e.Err, sandbox.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

var errReader = errors.New("nothing to read")

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errReader }

// dies checks that a call under way, and all later ones, tell the machine's end and its last words.
func dies(t *testing.T, f *fixture, kill func()) {
	t.Helper()
	f.guest.stats = f.guest.never
	ended := make(chan error, 1)
	go func() {
		_, err := f.s.Stats(context.Background())
		ended <- err
	}()
	time.Sleep(10 * time.Millisecond) // so that it is under way; else it fails in the same way
	kill()
	for _, op := range []string{"stats", "stat"} {
		var err error
		if op == "stats" {
			err = <-ended
		} else {
			_, err = f.s.Stat(t.Context(), "/")
		}
		var e *sandbox.Error
		if !errors.Is(err, sandbox.ErrDead) || !errors.As(err, &e) || e.Op != op || !strings.Contains(e.Detail, "fire in the box") {
			t.Errorf("%s: %v", op, err)
		}
	}
	for start := time.Now(); f.channel.closed.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("the channel of a dead machine is open")
		}
	}
}

func TestMachineDies(t *testing.T) {
	f := up(t)
	dies(t, f, f.machine.die)
	if f.machine.killed.Load() {
		t.Error("a dead machine was killed")
	}
}

// Whatever an operation says that meets the end of its machine, the caller is told of that.
func TestOperationMeetsTheEnd(t *testing.T) {
	f := up(t)
	err := f.s.Operate(t.Context(), "exec", func(context.Context) error {
		f.machine.die()
		return errors.New("reach the guest agent: the process has ended")
	})
	if !errors.Is(err, sandbox.ErrDead) || !strings.Contains(err.Error(), "fire in the box") {
		t.Error(err)
	}
}

// Who has a machine that has run out of memory is told so, and what to do.
func TestEndForMemory(t *testing.T) {
	f := up(t)
	f.machine.memory = true
	err := f.s.Operate(t.Context(), "exec", func(context.Context) error {
		f.machine.die()
		return errors.New("reach the guest agent: the process has ended")
	})
	var e *sandbox.Error
	if !errors.Is(err, sandbox.ErrDead) || !errors.As(err, &e) || !strings.Contains(e.Detail, "out of memory") || !strings.Contains(e.Remedy, "more memory") {
		t.Errorf("%+v", e)
	}
}

func TestAgentIsLost(t *testing.T) {
	f := up(t)
	dies(t, f, func() { close(f.channel.lost) })
	if !f.machine.killed.Load() {
		t.Error("a machine without its agent lives on")
	}
}

// A machine that dies is not waited for, and one that does not is given up with the caller's context.
func TestBringUpFails(t *testing.T) {
	wait := func(ctx context.Context) (Channel, error) { <-ctx.Done(); return nil, ctx.Err() }
	f := made()
	time.AfterFunc(10*time.Millisecond, f.machine.die)
	if err := f.s.BringUp(t.Context(), wait, f.s.Configure); err == nil || !strings.Contains(err.Error(), "fire in the box") {
		t.Errorf("a machine that died: %v", err)
	}
	f = made()
	broken := func(context.Context) (Channel, error) {
		time.AfterFunc(10*time.Millisecond, f.machine.die)
		return nil, fmt.Errorf("greet: %w", net.ErrClosed)
	}
	if err := f.s.BringUp(t.Context(), broken, f.s.Configure); err == nil || !strings.Contains(err.Error(), "fire in the box") {
		t.Errorf("a machine whose connection broke first: %v", err)
	}
	f = made()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := f.s.BringUp(ctx, wait, f.s.Configure); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the caller's context ended: %v", err)
	}
	if err := f.s.Close(); err != nil || f.machine.closed.Load() != 1 {
		t.Errorf("close: %v", err)
	}
	f = made()
	refuse := func(context.Context, agentproto.Config) error { return os.ErrPermission }
	if err := f.s.BringUp(t.Context(), f.connect, refuse); !errors.Is(err, os.ErrPermission) {
		t.Errorf("the agent refused: %v", err)
	}
	if err := f.s.Close(); err != nil || f.channel.closed.Load() != 1 {
		t.Errorf("close: %v", err)
	}
}

func TestTyped(t *testing.T) {
	own := &sandbox.Error{Op: "own", Err: sandbox.ErrInvalid}
	if err := Typed("x", "sys", "", fmt.Errorf("wrapped: %w", own)); !errors.Is(err, own) {
		t.Errorf("got %v", err)
	}
	for _, c := range []struct {
		code agentproto.FailureCode
		want error
	}{
		{agentproto.FailNotExist, fs.ErrNotExist},
		{agentproto.FailCannotRun, sandbox.ErrCannotRun},
		{agentproto.FailInvalid, sandbox.ErrInvalid},
	} {
		err := Typed("exec", "sys", "box", agentproto.Failure{Code: c.code, Text: "why"})
		var e *sandbox.Error
		if !errors.Is(err, c.want) || !errors.As(err, &e) || e.Detail != "why" {
			t.Errorf("code %d: %v", c.code, err)
		}
	}
}

// With Keep, operations share a connection, which is closed with the sandbox.
func TestKeep(t *testing.T) {
	f := made()
	f.s.cfg.Keep, f.s.Client.Keep = true, true
	if err := f.s.BringUp(t.Context(), f.connect, f.s.Configure); err != nil {
		t.Fatal(err)
	}
	if err := f.s.Introduce(t.Context(), "introduce", f.s.Configure); err != nil {
		t.Error(err)
	}
	for range 3 {
		if _, err := f.s.Stats(t.Context()); err != nil {
			t.Error(err)
		}
	}
	f.machine.mu.Lock()
	conns := f.machine.conns
	f.machine.mu.Unlock()
	if len(conns) != 1 {
		t.Fatalf("%d connections", len(conns))
	}
	if err := f.s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := conns[0].Write([]byte{0}); err == nil {
		t.Error("the connection is open")
	}
	if err := f.s.Introduce(t.Context(), "introduce", f.s.Configure); !errors.Is(err, sandbox.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}
