package serve

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/sandbox"
)

// hostMachine runs programs on the host, each in a process group. It can do what the tests need.
type hostMachine struct {
	frozen     atomic.Bool
	copied     atomic.Int64
	configured atomic.Pointer[agentproto.Config]
}

type hostProcess struct {
	pid    int
	done   chan struct{}
	status unix.WaitStatus
}

func (m *hostMachine) Start(p Program) (Process, error) {
	pid, err := syscall.ForkExec(p.Path, p.Args, &syscall.ProcAttr{
		Dir: p.Dir, Env: p.Env, Files: []uintptr{p.Stdio[0].Fd(), p.Stdio[1].Fd(), p.Stdio[2].Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: p.Terminal}, // a session is a process group too
	})
	if err != nil {
		return nil, err
	}
	started := &hostProcess{pid: pid, done: make(chan struct{})}
	go func() {
		_, _ = unix.Wait4(pid, &started.status, 0, nil)
		close(started.done)
	}()
	return started, nil
}

func (p *hostProcess) Done() <-chan struct{} { return p.done }
func (p *hostProcess) Kill()                 { _ = unix.Kill(-p.pid, unix.SIGKILL) }
func (p *hostProcess) Release()              {}
func (p *hostProcess) Status() (int, int) {
	if p.status.Signaled() {
		return -1, int(p.status.Signal())
	}
	return p.status.ExitStatus(), 0
}

func (m *hostMachine) Configure(c agentproto.Config) error { m.configured.Store(&c); return nil }
func (m *hostMachine) Freeze() error                       { m.frozen.Store(true); return nil }
func (m *hostMachine) Copied() int                         { return int(m.copied.Load()) }
func (m *hostMachine) Thaw(c agentproto.Config) error {
	if c.MachineID != [16]byte{} {
		m.copied.Add(1)
	}
	m.frozen.Store(false)
	return nil
}
func (m *hostMachine) Frozen() bool                     { return m.frozen.Load() }
func (m *hostMachine) Stats() (agentproto.Stats, error) { return agentproto.Stats{Processes: 3}, nil }

// connected returns a client of a server, over Unix sockets.
func connected(t testing.TB) (*agentproto.Client, *hostMachine) {
	t.Helper()
	m := &hostMachine{}
	s := &Server{Machine: m}
	path := listen(t, func(conn *net.UnixConn) { s.Serve(conn) })
	return &agentproto.Client{Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}, m
}

func program(args ...string) agentproto.Exec {
	return agentproto.Exec{Args: args, Env: []string{"PATH=/usr/bin:/bin"}, Dir: "/"}
}

func shell(script string) agentproto.Exec { return program("sh", "-c", script) }

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestExec(t *testing.T) {
	c, _ := connected(t)
	var out, errOut bytes.Buffer
	exit, err := c.Exec(bounded(t), shell("cat; echo err >&2; exit 3"), strings.NewReader("in"), &out, &errOut)
	if err != nil || exit.Code != 3 || out.String() != "in" || errOut.String() != "err\n" {
		t.Errorf("got %+v, %v, %q, %q", exit, err, out.String(), errOut.String())
	}
	exit, err = c.Exec(bounded(t), shell("kill -TERM $$"), nil, nil, nil)
	if err != nil || exit.Code != -1 || exit.Signal != 15 {
		t.Errorf("got %+v, %v", exit, err)
	}
	for _, bad := range []agentproto.Exec{program("no-such-program"), program("/etc/passwd"), program("/"), {Args: []string{"true"}, Dir: "/none"}} {
		if _, err := c.Exec(bounded(t), bad, nil, nil, nil); !errors.Is(err, sandbox.ErrCannotRun) {
			t.Errorf("%q: %v, want ErrCannotRun", bad.Args, err)
		}
	}
}

// zeros is an endless input that counts what was read of it.
type zeros struct{ n atomic.Int64 }

func (z *zeros) Read(p []byte) (int, error) {
	clear(p)
	z.n.Add(int64(len(p)))
	return len(p), nil
}

func TestLargeStreams(t *testing.T) {
	c, _ := connected(t)
	const size = 8 << 20
	var out bytes.Buffer
	exit, err := c.Exec(bounded(t), program("cat"), io.LimitReader(&zeros{}, size), &out, nil)
	if err != nil || exit.Code != 0 || out.Len() != size {
		t.Errorf("got %+v, %v, %d bytes", exit, err, out.Len())
	}
}

// TestKillPassesInput checks that a program which reads nothing is not sent more than the window,
// and that a kill reaches it at once nevertheless.
func TestKillPassesInput(t *testing.T) {
	c, _ := connected(t)
	in := &zeros{}
	ctx, cancel := context.WithCancel(bounded(t))
	ended := make(chan error, 1)
	go func() {
		_, err := c.Exec(ctx, program("sleep", "300"), in, nil, nil)
		ended <- err
	}()
	// The window, what the pipe takes, and what the sender has read ahead.
	const most = agentproto.InputWindow + pipeSize + 2*agentproto.MaxData
	for last := int64(-1); last != in.n.Load(); time.Sleep(100 * time.Millisecond) {
		last = in.n.Load()
	}
	if n := in.n.Load(); n < agentproto.InputWindow || n > most {
		t.Errorf("%d bytes were read of the input, want %d to %d", n, agentproto.InputWindow, most)
	}
	start := time.Now()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) || time.Since(start) > 3*time.Second {
		t.Errorf("got %v after %v", err, time.Since(start))
	}
}

func TestUnreadInputIsNoError(t *testing.T) {
	c, _ := connected(t)
	if exit, err := c.Exec(bounded(t), program("true"), &zeros{}, nil, nil); err != nil || exit.Code != 0 {
		t.Errorf("got %+v, %v", exit, err)
	}
	if exit, err := c.Exec(bounded(t), shell("exec <&-; sleep 0.1"), &zeros{}, nil, nil); err != nil || exit.Code != 0 {
		t.Errorf("got %+v, %v", exit, err)
	}
}

func TestTimeout(t *testing.T) {
	c, _ := connected(t)
	e := shell("echo before; sleep 300 & sleep 300")
	e.Timeout = 200 * time.Millisecond
	var out bytes.Buffer
	exit, err := c.Exec(bounded(t), e, nil, &out, nil)
	if err != nil || !exit.TimedOut || exit.Signal != 9 || out.String() != "before\n" {
		t.Errorf("got %+v, %v, %q", exit, err, out.String())
	}
}

func TestBackgroundKeepsOutput(t *testing.T) {
	c, _ := connected(t)
	var out bytes.Buffer
	start := time.Now()
	// The one in the background writes without end.
	exit, err := c.Exec(bounded(t), shell("echo now; (while :; do echo more; done) & echo $! >&2"), nil, &out, nil)
	if err != nil || exit.Code != 0 || !strings.HasPrefix(out.String(), "now\n") || time.Since(start) > 10*time.Second {
		t.Errorf("got %+v, %v, %.20q after %v", exit, err, out.String(), time.Since(start))
	}
}

func TestWriterFails(t *testing.T) {
	c, _ := connected(t)
	broken := errors.New("nobody listens")
	if _, err := c.Exec(bounded(t), program("yes"), nil, failing{broken}, nil); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Exec(bounded(t), program("cat"), failing{broken}, nil, nil); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
func (f failing) Read([]byte) (int, error)  { return 0, f.err }

// start starts a program that writes its PID.
func start(t *testing.T, c *agentproto.Client) (pid int, conn net.Conn) {
	t.Helper()
	conn, err := c.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := agentproto.Request{Op: agentproto.OpExec, Exec: shell("echo $$; exec sleep 300")}
	if err := agentproto.WriteFrame(conn, agentproto.KindRequest, r.Append(nil)); err != nil {
		t.Fatal(err)
	}
	f, err := agentproto.NewReader(conn).Next()
	if err != nil {
		t.Fatal(err)
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(f.Payload))); err != nil {
		t.Fatal(err)
	}
	return pid, conn
}

// lose starts a program that writes its PID, and breaks its connection.
func lose(t *testing.T, c *agentproto.Client) (pid int) {
	t.Helper()
	pid, conn := start(t, c)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	return pid
}

func alive(pid int) bool { return unix.Kill(pid, 0) == nil }

func TestLostConnectionKills(t *testing.T) {
	c, _ := connected(t)
	pid := lose(t, c)
	for deadline := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the program goes on without anybody listening")
		}
	}
}

func TestLostConnectionOfACopy(t *testing.T) {
	c, m := connected(t)
	if err := c.Freeze(bounded(t)); err != nil {
		t.Fatal(err)
	}
	pid := lose(t, c)
	time.Sleep(200 * time.Millisecond)
	if !alive(pid) {
		t.Error("the program of a copy was killed")
	}
	if err := c.Thaw(bounded(t), agentproto.Config{}); err != nil || m.Frozen() {
		t.Errorf("thaw: %v", err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Error(err)
	}
}

// TestLateLossInACopy breaks the connection when the copy runs already. What is started in the copy is
// killed as anywhere.
func TestLateLossInACopy(t *testing.T) {
	c, _ := connected(t)
	pid, conn := start(t, c)
	err := errors.Join(c.Freeze(bounded(t)), c.Thaw(bounded(t), agentproto.Config{MachineID: [16]byte{1}}), conn.Close())
	if err != nil {
		t.Fatal(err)
	}
	own := lose(t, c)
	for deadline := time.Now().Add(10 * time.Second); alive(own); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the copy's own program goes on without anybody listening")
		}
	}
	if !alive(pid) {
		t.Error("the program of a copy was killed")
	}
	_ = unix.Kill(pid, unix.SIGKILL)
}

func TestFiles(t *testing.T) {
	c, _ := connected(t)
	ctx, dir := bounded(t), t.TempDir()
	name := filepath.Join(dir, "f")
	content := bytes.Repeat([]byte("0123456789"), 200_000)
	if err := c.WriteFile(ctx, name, bytes.NewReader(content), 0o640); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := c.ReadFile(ctx, name, &got); err != nil || !bytes.Equal(got.Bytes(), content) {
		t.Errorf("read %d bytes, %v", got.Len(), err)
	}
	got.Reset()
	if err := c.ReadRange(ctx, name, 1_999_995, 100, &got); err != nil || got.String() != "56789" {
		t.Errorf("read a range: %q, %v", got.String(), err)
	}
	if info, err := c.Stat(ctx, name); err != nil || info.Size != int64(len(content)) || info.Mode != 0o640 {
		t.Errorf("stat: %+v, %v", info, err)
	}
	broken := errors.New("source broke")
	if err := c.WriteFile(ctx, name+"2", io.MultiReader(strings.NewReader("half"), failing{broken}), 0o600); !errors.Is(err, broken) {
		t.Errorf("write from a broken source: %v", err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		list, err := c.ReadDir(ctx, dir)
		if err == nil && len(list) == 1 && list[0].Name == "f" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("list: %+v, %v", list, err)
		}
	}
	if err := c.Remove(ctx, name); err != nil {
		t.Error(err)
	}
	if _, err := c.Stat(ctx, name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat after remove: %v", err)
	}
}

func TestManyEntries(t *testing.T) {
	c, _ := connected(t)
	dir := t.TempDir()
	const n = 1000
	for i := range n {
		if err := os.Symlink(strings.Repeat("x", 200), filepath.Join(dir, strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := c.ReadDir(bounded(t), dir); err != nil || len(list) != n {
		t.Errorf("%d entries, %v", len(list), err)
	}
}

func TestOthers(t *testing.T) {
	c, m := connected(t)
	ctx := bounded(t)
	if err := c.Ping(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Configure(ctx, agentproto.Config{Hostname: "h"}); err != nil || m.configured.Load().Hostname != "h" {
		t.Errorf("configure: %v", err)
	}
	if s, err := c.Stats(ctx); err != nil || s.Processes != 3 {
		t.Errorf("stats: %+v, %v", s, err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	c, _ := connected(t)
	run := func() {
		for range 20 {
			if _, err := c.Exec(bounded(t), program("cat"), strings.NewReader("x"), io.Discard, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	run()
	fds, goroutines := openFiles(t), runtime.NumGoroutine()
	run()
	for deadline := time.Now().Add(10 * time.Second); openFiles(t) > fds || runtime.NumGoroutine() > goroutines; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d open files, before %d; %d goroutines, before %d", openFiles(t), fds, runtime.NumGoroutine(), goroutines)
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// inert is a machine on which nothing happens, so that any request may be tried.
type inert struct{ hostMachine }

func (*inert) Start(Program) (Process, error) { return nil, unix.EPERM }

// FuzzHost plays a host that sends anything to an operation that touches nothing.
func FuzzHost(f *testing.F) {
	frame := func(k agentproto.Kind, p []byte) []byte { return agentproto.AppendFrame(nil, k, p) }
	request := func(r agentproto.Request) []byte { return frame(agentproto.KindRequest, r.Append(nil)) }
	f.Add(request(agentproto.Request{Op: agentproto.OpPing}))
	f.Add(append(request(agentproto.Request{Op: agentproto.OpExec, Exec: program("x")}), frame(agentproto.KindInput, []byte("in"))...))
	withTerminal := program("x")
	withTerminal.Terminal = &sandbox.Terminal{Size: sandbox.DefaultTerminalSize()}
	f.Add(append(request(agentproto.Request{Op: agentproto.OpExec, Exec: withTerminal}), frame(agentproto.KindResize, []byte{24, 0, 80, 0})...))
	f.Add(append(request(agentproto.Request{Op: agentproto.OpStats}), frame(agentproto.KindKill, nil)...))
	f.Add([]byte("\x01\x02\x00\x00\x00\x01\x03"))
	f.Fuzz(func(t *testing.T, said []byte) {
		for all := agentproto.NewReader(bytes.NewReader(said)); ; {
			r, err := all.Next()
			if err != nil {
				break
			}
			if r.Kind != agentproto.KindRequest {
				continue
			}
			switch req, _ := agentproto.DecodeRequest(r.Payload); req.Op {
			case agentproto.OpRead, agentproto.OpWrite, agentproto.OpRemove, agentproto.OpList, agentproto.OpStat:
				t.Skip() // these would touch this host
			}
		}
		host, guest := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, host) }()
		go func() {
			_, _ = host.Write(said)
			_ = host.Close()
		}()
		(&Server{Machine: &inert{}}).Serve(guest)
	})
}

func TestInputBuffer(t *testing.T) {
	b := newInputBuffer()
	chunk := make([]byte, agentproto.MaxData)
	for range agentproto.InputWindow / agentproto.MaxData {
		if !b.add(chunk) {
			t.Fatal("the window is smaller than promised")
		}
	}
	if b.add([]byte{0}) {
		t.Error("more than the window was taken")
	}
	got := b.take()
	if b.add([]byte{0}) {
		t.Error("what is not passed on yet makes room")
	}
	b.passed(got)
	if !b.add(chunk) {
		t.Error("what was passed on makes no room")
	}
	b.end()
	if b.add([]byte{0}) {
		t.Error("input after its end was taken")
	}
	for range agentproto.InputWindow / agentproto.MaxData {
		if b.take() == nil {
			t.Fatal("input was lost at its end")
		}
	}
	if b.take() != nil {
		t.Error("input after its end")
	}
}
