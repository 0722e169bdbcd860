package agentproto

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	want := []Frame{
		{KindInput, bytes.Repeat([]byte("x"), MaxData)}, {KindInputEnd, []byte{}}, {KindKill, []byte{}},
		{KindCredit, []byte{1, 2, 3, 4}}, {KindDone, []byte("result")},
	}
	for _, f := range want {
		if err := WriteFrame(&b, f.Kind, f.Payload); err != nil {
			t.Fatal(err)
		}
	}
	r := NewReader(&b)
	for _, w := range want {
		if got, err := r.Next(); err != nil || got.Kind != w.Kind || !bytes.Equal(got.Payload, w.Payload) {
			t.Fatalf("got kind %d with %d bytes, %v; want kind %d with %d", got.Kind, len(got.Payload), err, w.Kind, len(w.Payload))
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	sealed := SealFrame(append(make([]byte, HeaderSize), "data"...), KindOutput)
	if !bytes.Equal(sealed, AppendFrame(nil, KindOutput, []byte("data"))) {
		t.Errorf("sealed: % x", sealed)
	}
}

func TestBadFrames(t *testing.T) {
	for name, data := range map[string]string{
		"unknown kind":        "\x00\x00\x00\x00\x00",
		"too long":            "\x02\x01\x00\x01\x00",
		"far too long":        "\x15\xff\xff\xff\xff",
		"payload not allowed": "\x03\x01\x00\x00\x00x",
	} {
		if _, err := NewReader(strings.NewReader(data)).Next(); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v, want ErrProtocol", name, err)
		}
	}
	for _, data := range []string{"\x02", "\x02\x05\x00\x00\x00abc"} {
		if _, err := NewReader(strings.NewReader(data)).Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %v, want io.ErrUnexpectedEOF", data, err)
		}
	}
	if err := WriteFrame(io.Discard, KindInput, make([]byte, MaxData+1)); err == nil {
		t.Error("a frame that is too long was written")
	}
}

var requests = []Request{
	{Op: OpPing}, {Op: OpFreeze}, {Op: OpStats},
	{Op: OpExec, Exec: Exec{Args: []string{"sh", "-c", ""}, Env: []string{"A=b"}, Dir: "/", Timeout: time.Second, Input: true}},
	{Op: OpExec, Exec: Exec{Args: []string{"sh"}, Dir: "/", Input: true, Terminal: &sandbox.Terminal{Size: sandbox.TerminalSize{Rows: 50, Cols: 200}}}},
	{Op: OpRead, Path: "/etc/passwd"}, {Op: OpRead, Path: "/x", Offset: math.MaxInt64, Size: 1 << 40}, {Op: OpList, Path: "/"}, {Op: OpStat, Path: "/x"}, {Op: OpRemove, Path: "/\xff"}, {Op: OpConnect, Path: "/tmp/s"},
	{Op: OpWrite, Path: "/tmp/x", Perm: 0o640},
	{Op: OpConfigure, Config: Config{Hostname: "h", Now: time.Unix(1_700_000_000, 5), Entropy: []byte{1, 2}, Processes: 512, MemoryBytes: 1 << 30}},
	{Op: OpThaw, Config: Config{Entropy: []byte{}}},
	{Op: OpThaw, Config: Config{Entropy: []byte{}, MachineID: [16]byte{1, 15: 2}}},
	{Op: OpThaw, Config: Config{Entropy: []byte{}, Network: Network{
		Address: netip.MustParsePrefix("10.0.2.15/24"), Gateway: netip.MustParseAddr("10.0.2.2"), MAC: [6]byte{2, 3, 4, 5, 6, 7}}}},
}

func TestRequests(t *testing.T) {
	for _, want := range requests {
		got, err := DecodeRequest(want.Append(nil))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v; want %+v", want.Op, got, err, want)
		}
	}
	for name, payload := range map[string][]byte{
		"empty":         nil,
		"other version": {Version + 1, byte(OpPing)},
		"unknown op":    {Version, 99},
		"left over":     {Version, byte(OpPing), 0},
		"no program":    Request{Op: OpExec, Exec: Exec{Dir: "/"}}.Append(nil),
		"short":         {Version, byte(OpRead), 5, 'x'},
		"no range":      {Version, byte(OpRead), 1, 'x'},
		"huge offset":   {Version, byte(OpRead), 1, 'x', 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0},
		"no rows": Request{Op: OpExec, Exec: Exec{Args: []string{"x"}, Dir: "/", Terminal: &sandbox.Terminal{
			Size: sandbox.TerminalSize{Cols: 80}}}}.Append(nil),
		"huge list": {Version, byte(OpExec), 0xff, 0xff, 0xff, 0xff, 0x0f},
	} {
		if r, err := DecodeRequest(payload); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: got %+v, %v", name, r, err)
		}
	}
}

func TestResults(t *testing.T) {
	for _, want := range []Exit{{}, {Code: 255}, {Code: -1, Signal: 9, TimedOut: true}} {
		if got, err := DecodeExit(want.Append(nil)); err != nil || got != want {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	for _, bad := range []Exit{{Code: 256}, {Code: -1}, {Code: -2, Signal: 1}, {Signal: 9}, {Code: -1, Signal: 200}} {
		if got, err := DecodeExit(bad.Append(nil)); !errors.Is(err, ErrProtocol) {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	stats := Stats{MemoryBytes: math.MaxInt64, CPUNanos: 7, Processes: 3}
	if got, err := DecodeStats(stats.Append(nil)); err != nil || got != stats {
		t.Errorf("got %+v, %v", got, err)
	}
	info := sandbox.FileInfo{Name: "n", Size: 5, Mode: fs.ModeSymlink | 0o777, ModTime: time.Unix(-5, 7), Target: "t"}
	if got, err := DecodeFileInfo(AppendFileInfo(nil, info)); err != nil || !reflect.DeepEqual(got, info) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestFailures(t *testing.T) {
	for _, c := range []struct{ err, want error }{
		{&fs.PathError{Op: "open", Path: "/x", Err: syscall.ENOENT}, fs.ErrNotExist},
		{syscall.ENOTDIR, fs.ErrNotExist},
		{syscall.EACCES, fs.ErrPermission},
		{syscall.EROFS, fs.ErrPermission},
		{syscall.EEXIST, fs.ErrExist},
		{syscall.EISDIR, sandbox.ErrInvalid},
		{syscall.ENOSPC, syscall.ENOSPC},
		{syscall.EAGAIN, syscall.EAGAIN},
		{syscall.ECONNREFUSED, sandbox.ErrRefused},
		{syscall.EPROTOTYPE, sandbox.ErrInvalid},
		{errors.Join(sandbox.ErrCannotRun, syscall.ENOENT), sandbox.ErrCannotRun},
	} {
		f, err := DecodeFailure(NewFailure(c.err).Append(nil))
		if err != nil || !errors.Is(f, c.want) || f.Text != c.err.Error() {
			t.Errorf("%v: got %+v, %v", c.err, f, err)
		}
	}
	f := NewFailure(errors.New(strings.Repeat("x", 1<<20)))
	if f.Code != FailOther || len(f.Text) > maxFailureText || f.Unwrap() != nil {
		t.Errorf("got %d bytes, %+v", len(f.Text), f.Code)
	}
}

func TestSizes(t *testing.T) {
	want := sandbox.TerminalSize{Rows: 50, Cols: sandbox.MaxTerminalSize}
	if got, err := DecodeSize(AppendSize(nil, want)); err != nil || got != want {
		t.Errorf("got %v, %v", got, err)
	}
	for name, payload := range map[string][]byte{
		"empty": nil, "short": {1, 0, 1}, "long": {1, 0, 1, 0, 0}, "no rows": {0, 0, 1, 0}, "huge": {1, 0, 0xff, 0xff},
	} {
		if got, err := DecodeSize(payload); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// FuzzRequest decodes what a host may send.
func FuzzRequest(f *testing.F) {
	for _, r := range requests {
		f.Add(r.Append(nil))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		r, err := DecodeRequest(payload)
		if err != nil {
			return
		}
		again, err := DecodeRequest(r.Append(nil))
		if err != nil || !reflect.DeepEqual(r, again) {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}

// FuzzGuest plays a guest that sends anything in answer to each kind of operation.
func FuzzGuest(f *testing.F) {
	frame := func(k Kind, p []byte) []byte { return AppendFrame(nil, k, p) }
	f.Add(frame(KindDone, Exit{Code: 3}.Append(nil)))
	f.Add(append(frame(KindOutput, []byte("out")), frame(KindDone, Stats{}.Append(nil))...))
	f.Add(append(frame(KindCredit, []byte{0, 0, 1, 0}), frame(KindInputClosed, nil)...))
	f.Add(append(frame(KindEntry, AppendFileInfo(nil, sandbox.FileInfo{Name: "x"})), frame(KindDone, nil)...))
	f.Add(frame(KindFail, NewFailure(fs.ErrNotExist).Append(nil)))
	f.Add(append(frame(KindInputClosed, nil), frame(KindFail, NewFailure(sandbox.ErrRefused).Append(nil))...))
	f.Add(append(frame(KindOutput, []byte("out")), frame(KindDone, nil)...))
	f.Fuzz(func(t *testing.T, said []byte) {
		c := Client{Dial: func(context.Context) (net.Conn, error) {
			host, guest := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, guest) }()
			go func() {
				_, _ = guest.Write(said)
				_ = guest.Close()
			}()
			return host, nil
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if exit, err := c.Exec(ctx, Exec{Args: []string{"x"}, Dir: "/"}, strings.NewReader("input"), io.Discard, nil); err == nil && exit.Code == -1 && exit.Signal == 0 {
			t.Errorf("exit %+v", exit)
		}
		sizes := make(chan sandbox.TerminalSize, 1)
		sizes <- sandbox.DefaultTerminalSize()
		_, _ = c.Exec(ctx, Exec{Args: []string{"x"}, Dir: "/", Terminal: &sandbox.Terminal{Resize: sizes}}, nil, io.Discard, nil)
		_ = c.Connect(ctx, "/x", strings.NewReader("input"), io.Discard)
		_ = c.ReadFile(ctx, "/x", io.Discard)
		_ = c.WriteFile(ctx, "/x", strings.NewReader("content"), 0o600)
		_, _ = c.ReadDir(ctx, "/")
		_, _ = c.Stat(ctx, "/")
		_, _ = c.Stats(ctx)
		if ctx.Err() != nil {
			t.Error("hung")
		}
	})
}

// port is a byte stream whose host's end can be exchanged, as that of a serial port.
func port(t *testing.T) (host net.Conn, guest io.ReadWriteCloser) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "port")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		t.Cleanup(func() { _ = conns[i].Close() })
	}
	return conns[0], conns[1]
}

// open greets and returns both ends of a session.
func open(t *testing.T, host net.Conn, guest io.ReadWriteCloser, g *GuestPort) {
	t.Helper()
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan struct{})
	wg.Go(func() {
		session, err := g.Session(guest)
		if err != nil {
			t.Errorf("guest: %v", err)
			return
		}
		stream, err := session.Accept()
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		_, _ = io.Copy(stream, stream)
		_ = stream.Close()
		<-done
	})
	session, err := HostSession(ctx, host)
	if err != nil {
		t.Errorf("host: %v", err)
	} else if stream, err := session.Open(); err != nil {
		t.Errorf("open: %v", err)
	} else {
		buf := make([]byte, 4)
		_, err1 := stream.Write([]byte("echo"))
		_, err2 := io.ReadFull(stream, buf)
		if err := errors.Join(err1, err2, stream.Close()); err != nil || string(buf) != "echo" {
			t.Errorf("got %q, %v", buf, err)
		}
	}
	close(done)
	wg.Wait()
}

func TestSession(t *testing.T) {
	host, guest := port(t)
	open(t, host, guest, &GuestPort{})
}

func TestSessionSkipsForeignBytes(t *testing.T) {
	host, guest := port(t)
	// Rests of old sessions in both directions, with pieces of greetings in them.
	for _, rest := range []string{strings.Repeat("old", 1000), greetingMagic, greetingMagic[:5] + greetingMagic[:3]} {
		_, err1 := host.Write([]byte(rest))
		_, err2 := guest.Write([]byte(rest))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
	}
	open(t, host, guest, &GuestPort{})
}

func TestSessionReplacesAnother(t *testing.T) {
	// A restored guest does not know that its host has gone: the first bytes of the new one reach
	// the old session. They must not be lost.
	host, guest := port(t)
	g := &GuestPort{}
	answered := make(chan error, 1)
	go func() {
		session, err := g.Session(guest)
		if err == nil {
			_, err = session.Accept() // ends with the old session
		}
		answered <- err
	}()
	if err := greet(host); err != nil {
		t.Fatal(err)
	}
	if _, err := host.Write(make([]byte, 12)); err != nil { // a frame: now it is a session
		t.Fatal(err)
	}
	greeting := greetingMagic + "0123456789abcdef"
	if _, err := host.Write([]byte(greeting)); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err == nil {
		t.Fatal("the old session goes on")
	}
	if !strings.Contains(string(g.rest), greetingMagic) {
		t.Errorf("the greeting is lost: % x", g.rest)
	}
	_ = host.Close()
	host, guest = port(t)
	open(t, host, guest, g)
}

func TestHostSessionEnds(t *testing.T) {
	host, _ := port(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := HostSession(ctx, host); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without an answer: %v", err)
	}
	host, guest := port(t)
	_ = guest.Close()
	if _, err := HostSession(t.Context(), host); err == nil {
		t.Error("a session without a guest")
	}
}

// FuzzGreeting plays a peer that sends anything in place of a greeting, to both sides.
func FuzzGreeting(f *testing.F) {
	f.Add([]byte(greetingMagic + "0123456789abcdef\x00\x00"))
	f.Add([]byte(greetingMagic + greetingMagic + "0123456789abcdef"))
	f.Fuzz(func(t *testing.T, said []byte) {
		s := &syncReader{r: bytes.NewReader(said)}
		err := s.until([]byte(greetingMagic), 0)
		if at := bytes.Index(said, []byte(greetingMagic)); (at >= 0) != (err == nil) {
			t.Errorf("greeting at %d, but %v", at, err)
		}
	})
}
