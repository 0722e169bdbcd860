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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/sandbox"
)

// listen serves a socket with one call of serve for each connection, and returns its path.
func listen(t testing.TB, serve func(*net.UnixConn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				serve(conn.(*net.UnixConn))
			})
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	return path
}

func echo(conn *net.UnixConn) { _, _ = io.Copy(conn, conn) }

// endless is an input that never comes, until it is closed.
func endless(t *testing.T) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	return r
}

func TestConnect(t *testing.T) {
	c, _ := connected(t)
	large := strings.Repeat("0123456789abcdef", 3<<20/16)
	echoing := listen(t, echo)
	var out bytes.Buffer
	if err := c.Connect(bounded(t), echoing, strings.NewReader(large), &out); err != nil || out.String() != large {
		t.Errorf("an echo: %d bytes, %v", out.Len(), err)
	}
	if err := c.Connect(bounded(t), echoing, nil, nil); err != nil {
		t.Errorf("no input: %v", err)
	}
	// The end of the input reaches the peer, which answers then.
	late := listen(t, func(conn *net.UnixConn) {
		got, _ := io.ReadAll(conn)
		_, _ = conn.Write(bytes.ToUpper(got))
	})
	out.Reset()
	if err := c.Connect(bounded(t), late, strings.NewReader("abc"), &out); err != nil || out.String() != "ABC" {
		t.Errorf("after the end of the input: %q, %v", out.String(), err)
	}
	// The peer closes while input may still come, and while much of it was not taken.
	hello := listen(t, func(conn *net.UnixConn) { _, _ = io.WriteString(conn, "hello") })
	out.Reset()
	if err := c.Connect(bounded(t), hello, endless(t), &out); err != nil || out.String() != "hello" {
		t.Errorf("the peer closes: %q, %v", out.String(), err)
	}
	if err := c.Connect(bounded(t), listen(t, func(*net.UnixConn) {}), &zeros{}, nil); err != nil {
		t.Errorf("the peer takes nothing: %v", err)
	}
	// A path that is longer than a socket's address.
	deep := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(echoing, filepath.Join(deep, "link")); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if err := c.Connect(bounded(t), filepath.Join(deep, "link"), strings.NewReader("x"), &out); err != nil || out.String() != "x" {
		t.Errorf("a long path: %q, %v", out.String(), err)
	}
}

// TestConnectCutOffWhileFrozen: whether the peer is to know that the host is gone shows when the machine goes on.
func TestConnectCutOffWhileFrozen(t *testing.T) {
	c, _ := connected(t)
	begun, gone := make(chan struct{}, 1), make(chan error, 1)
	path := listen(t, func(conn *net.UnixConn) {
		begun <- struct{}{}
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err := io.Copy(io.Discard, conn)
		gone <- err
	})
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	go func() {
		<-begun
		_ = c.Freeze(bounded(t))
		cancel()
	}()
	if err := c.Connect(ctx, path, endless(t), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	time.Sleep(10 * thawInterval)
	if err := c.Thaw(bounded(t), agentproto.Config{}); err != nil {
		t.Fatal(err)
	}
	if err := <-gone; err != nil {
		t.Errorf("the peer was not told: %v", err)
	}
}

func TestConnectErrors(t *testing.T) {
	c, _ := connected(t)
	dir := t.TempDir()
	left := filepath.Join(dir, "left")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	datagrams, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "datagrams"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		filepath.Join(dir, "none"):      fs.ErrNotExist,
		filepath.Join(dir, "left", "x"): fs.ErrNotExist,
		"/" + strings.Repeat("n", 150):  fs.ErrNotExist,
		left:                            sandbox.ErrRefused,
		"/etc/passwd":                   sandbox.ErrRefused,
		filepath.Join(dir, "datagrams"): sandbox.ErrInvalid,
		filepath.Join(dir, "loop"):      sandbox.ErrInvalid,
		"relative":                      sandbox.ErrInvalid,
		"@abstract":                     sandbox.ErrInvalid,
		"":                              sandbox.ErrInvalid,
		"/tmp/../x":                     sandbox.ErrInvalid,
		"/tmp/\x00x":                    sandbox.ErrInvalid,
		"/" + strings.Repeat("long", 1<<10) + "er": sandbox.ErrInvalid,
	} {
		if err := c.Connect(bounded(t), name, endless(t), nil); !errors.Is(err, want) {
			t.Errorf("%.40q: %v, want %v", name, err, want)
		}
	}
}

// A host that goes, or that cannot take the output, closes the socket.
func TestConnectIsCutOff(t *testing.T) {
	c, _ := connected(t)
	begun, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	path := listen(t, func(conn *net.UnixConn) {
		_, _ = io.WriteString(conn, "hello")
		begun <- struct{}{}
		_, _ = io.Copy(io.Discard, conn)
		gone <- struct{}{}
	})
	ctx, cancel := context.WithCancel(bounded(t))
	go func() {
		<-begun
		cancel()
	}()
	if err := c.Connect(ctx, path, endless(t), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	<-gone
	full := errors.New("full")
	if err := c.Connect(bounded(t), path, endless(t), writerFunc(func([]byte) (int, error) { return 0, full })); !errors.Is(err, full) {
		t.Errorf("a writer that is full: %v", err)
	}
	<-gone
}

// What the peer does in a copy of the machine is not disturbed by the host's going.
func TestConnectInACopy(t *testing.T) {
	c, m := connected(t)
	begun, done := make(chan struct{}), make(chan error, 1)
	path := listen(t, func(conn *net.UnixConn) {
		close(begun)
		_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, err := conn.Read(make([]byte, 1))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			_, err = conn.Write(make([]byte, 1<<20)) // it is read, and dropped
		}
		done <- err
	})
	ctx, cancel := context.WithCancel(bounded(t))
	go func() {
		<-begun
		m.copied.Add(1)
		cancel()
	}()
	if err := c.Connect(ctx, path, endless(t), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("the peer: %v", err)
	}
}

// Peers that do nothing do not keep others from being served, and there is a bound on them.
func TestConnectIsBounded(t *testing.T) {
	c, _ := connected(t)
	stop, waiting := make(chan struct{}), make(chan struct{}, maxSockets)
	path := listen(t, func(*net.UnixConn) {
		waiting <- struct{}{}
		<-stop
	})
	var calls sync.WaitGroup
	for range maxSockets {
		calls.Go(func() {
			if err := c.Connect(bounded(t), path, &zeros{}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	for range maxSockets {
		<-waiting
	}
	if err := c.Connect(bounded(t), path, nil, nil); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("one more: %v", err)
	}
	if exit, err := c.Exec(bounded(t), shell("exit 3"), nil, nil, nil); err != nil || exit.Code != 3 {
		t.Errorf("a program beside them: %+v, %v", exit, err)
	}
	close(stop)
	calls.Wait()
	if err := c.Connect(bounded(t), path, nil, nil); err != nil {
		t.Errorf("after them: %v", err)
	}
}

// A host that breaks the protocol loses the connection, and the socket is closed.
func TestConnectRefusesWhatIsOutOfPlace(t *testing.T) {
	c, _ := connected(t)
	request := func(path string) []byte {
		return agentproto.AppendFrame(nil, agentproto.KindRequest, agentproto.Request{Op: agentproto.OpConnect, Path: path}.Append(nil))
	}
	for name, bad := range map[string][]byte{
		"a kill":    agentproto.AppendFrame(nil, agentproto.KindKill, nil),
		"a size":    agentproto.AppendFrame(nil, agentproto.KindResize, []byte{1, 0, 1, 0}),
		"a request": request("/x"),
		"a flood":   bytes.Repeat(agentproto.AppendFrame(nil, agentproto.KindInput, make([]byte, agentproto.MaxData)), 32),
		"input after the end": append(agentproto.AppendFrame(nil, agentproto.KindInputEnd, nil),
			agentproto.AppendFrame(nil, agentproto.KindInput, []byte("x"))...),
	} {
		gone, stop := make(chan struct{}), make(chan struct{})
		path := listen(t, func(conn *net.UnixConn) {
			<-stop
			_, _ = io.Copy(io.Discard, conn)
			close(gone)
		})
		conn, err := c.Dial(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = conn.Write(append(request(path), bad...)) }()
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection stays open", name)
		}
		close(stop)
		<-gone
		_ = conn.Close()
	}
}
