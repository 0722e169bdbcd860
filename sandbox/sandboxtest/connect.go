package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// echoServer listens on two sockets: what comes on /tmp/echo it sends back, until the end, and on /tmp/hello it says hello
// and closes. A socket that nobody listens on is at /tmp/left. It counts in its memory how
// often it was asked, and in /tmp/ended who has ended on /tmp/echo.
const echoServer = `import os, select, socket
left = socket.socket(socket.AF_UNIX); left.bind('/tmp/left'); left.close()
def listen(path):
    s = socket.socket(socket.AF_UNIX); s.bind(path); s.listen(16); return s
echo, hello = listen('/tmp/echo'), listen('/tmp/hello')
if os.fork(): os._exit(0)
os.setsid()
asked = 0
while True:
    for s in select.select([echo, hello], [], [])[0]:
        c, _ = s.accept()
        asked += 1
        if s is hello:
            c.sendall(b'hello %d' % asked)
        else:
            try:
                while True:
                    p = c.recv(65536)
                    if not p: break
                    c.sendall(p)
            except OSError: pass
            open('/tmp/ended', 'a').write('x')
        c.close()`

// testConnect has the host speak with a server in the sandbox, and in a copy.
func (s *suite) testConnect(t *testing.T, d sandbox.Driver) {
	ctx, cancel := bounded(t)
	defer cancel()
	b := s.create(t, d)
	to, ok := b.Sandbox.(sandbox.Connector)
	if !ok {
		t.Skipf("%s does not connect to sockets", d.System())
	}
	b.write(t, "/tmp/echo.py", echoServer)
	b.sh(t, "python3 /tmp/echo.py >/dev/null 2>&1 </dev/null")

	const size = 1 << 20
	want, err := io.ReadAll(patternReader(size))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := to.Connect(ctx, "/tmp/echo", bytes.NewReader(want), &out); err != nil || !bytes.Equal(out.Bytes(), want) {
		t.Errorf("%d of %d bytes came back: %v", out.Len(), size, err)
	}
	if err := to.Connect(ctx, "/tmp/echo", nil, nil); err != nil {
		t.Errorf("no input: %v", err)
	}
	hello := func(to sandbox.Connector) string {
		t.Helper()
		var out bytes.Buffer
		in, end := io.Pipe() // from which nothing ever comes
		defer func() { _ = end.Close() }()
		if err := to.Connect(ctx, "/tmp/hello", in, &out); err != nil {
			t.Errorf("a peer that closes: %v", err)
		}
		return out.String()
	}
	if got := hello(to); got != "hello 3" {
		t.Errorf("a peer that closes said %q", got)
	}

	b.sh(t, "ln -s echo /tmp/link; ln -s /nowhere /tmp/dangling")
	for name, want := range map[string]error{
		"/tmp/none": fs.ErrNotExist, "/tmp/dangling": fs.ErrNotExist, "/etc/passwd/x": fs.ErrNotExist, "/tmp/left": sandbox.ErrRefused,
		"tmp/echo": sandbox.ErrInvalid, "/tmp/../tmp/echo": sandbox.ErrInvalid, "": sandbox.ErrInvalid,
	} {
		if err := to.Connect(ctx, name, nil, io.Discard); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
	}
	out.Reset()
	if err := to.Connect(ctx, "/tmp/link", bytes.NewReader([]byte("x")), &out); err != nil || out.String() != "x" {
		t.Errorf("by a link: %q, %v", out.String(), err)
	}

	// Who goes is noticed by the peer.
	before := len(b.read(t, "/tmp/ended"))
	cancelled, cancelNow := context.WithCancel(ctx)
	in, end := io.Pipe()
	defer func() { _ = end.Close() }()
	go func() { _, _ = end.Write([]byte("x")) }()
	if err := to.Connect(cancelled, "/tmp/echo", in, onWrite(cancelNow)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if !eventually(20*time.Second, func() bool { return len(b.read(t, "/tmp/ended")) > before }) {
		t.Error("the peer waits for a host that is gone")
	}
	full := errors.New("full")
	if err := to.Connect(ctx, "/tmp/hello", nil, failingWriter{full}); !errors.Is(err, full) {
		t.Errorf("a writer that is full: %v", err)
	}

	if f, ok := b.Sandbox.(sandbox.Forker); ok {
		copies, err := f.Fork(ctx, 1)
		if err != nil {
			t.Fatalf("fork: %v", err)
		}
		defer func() {
			if err := copies[0].Close(); err != nil {
				t.Errorf("close the copy: %v", err)
			}
		}()
		of := hello(copies[0].(sandbox.Connector))
		if here := hello(to); here != of || here == "" {
			t.Errorf("the server in the copy says %q, the one here %q", of, here)
		}
	}
	if err := b.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := to.Connect(ctx, "/tmp/echo", nil, nil); !errors.Is(err, sandbox.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// onWrite is called for what is written.
type onWrite func()

func (f onWrite) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }
