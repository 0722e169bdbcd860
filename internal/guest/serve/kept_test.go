package serve

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/sandbox"
)

// keeping is a client that keeps a connection, and counts those that it opens.
func keeping(t *testing.T) (*agentproto.Client, *atomic.Int64, *atomic.Value) {
	t.Helper()
	c, _ := connected(t)
	dial, dials, last := c.Dial, &atomic.Int64{}, &atomic.Value{}
	c.Keep = true
	c.Dial = func(ctx context.Context) (net.Conn, error) {
		dials.Add(1)
		conn, err := dial(ctx)
		if err == nil {
			last.Store(conn)
		}
		return conn, err
	}
	t.Cleanup(c.Close)
	return c, dials, last
}

// Operations that follow each other use one connection, whatever they are and however they end.
func TestKeptConnection(t *testing.T) {
	ctx := bounded(t)
	c, dials, last := keeping(t)
	for i := range 20 {
		var out bytes.Buffer
		if exit, err := c.Exec(ctx, shell("echo $0; exit 7"), nil, &out, nil); err != nil || exit.Code != 7 || out.String() != "sh\n" {
			t.Fatalf("exec %d: %+v, %v, %q", i, exit, err, out.String())
		}
		if _, err := c.Exec(ctx, program("no-such-program"), nil, nil, nil); !errors.Is(err, sandbox.ErrCannotRun) {
			t.Fatal(err)
		}
		if err := c.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Stat(ctx, "/"); err != nil {
			t.Fatal(err)
		}
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	// What nobody uses may end.
	_ = last.Load().(net.Conn).Close()
	if err := c.Ping(ctx); err != nil || dials.Load() != 2 {
		t.Errorf("after its end: %v, %d connections", err, dials.Load())
	}
	c.Drop()
	if err := c.Ping(ctx); err != nil || dials.Load() != 3 {
		t.Errorf("after a drop: %v, %d connections", err, dials.Load())
	}
	c.Close()
	for range 2 {
		if err := c.Ping(ctx); err != nil {
			t.Error(err)
		}
	}
	if n := dials.Load(); n != 5 {
		t.Errorf("a closed client has opened %d connections, and not 2", n-3)
	}
}

// A connection on which something may be on its way serves no other operation.
func TestNotKept(t *testing.T) {
	ctx := bounded(t)
	c, dials, _ := keeping(t)
	var expect int64
	opens := func(what string, n int64, f func() error) {
		t.Helper()
		if err := f(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if expect += n; dials.Load() != expect {
			t.Errorf("%s: %d connections, want %d", what, dials.Load(), expect)
		}
	}
	ping := func() error { return c.Ping(ctx) }
	opens("ping", 1, ping)
	opens("input", 0, func() error {
		_, err := c.Exec(ctx, shell("exit 0"), strings.NewReader("which nobody reads"), nil, nil)
		return err
	})
	opens("after input", 1, ping)
	opens("given up", 0, func() error {
		short, cancel := context.WithCancel(ctx)
		started := writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil })
		if _, err := c.Exec(short, shell("echo; sleep 100"), nil, started, nil); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	opens("after what was given up", 1, ping)
	opens("freeze", 0, func() error { return c.Freeze(ctx) })
	opens("thaw", 1, func() error { return c.Thaw(ctx, agentproto.Config{}) })
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				if _, err := c.Exec(ctx, shell("exit 0"), nil, nil, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A request in the middle of an exec is out of place, and ends it.
func TestRequestDuringExec(t *testing.T) {
	c, _ := connected(t)
	conn, err := c.Dial(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ping := agentproto.Request{Op: agentproto.OpPing}
	exec := agentproto.Request{Op: agentproto.OpExec, Exec: shell("sleep 1000")}
	for _, r := range []agentproto.Request{exec, ping, ping} {
		if err := agentproto.WriteFrame(conn, agentproto.KindRequest, r.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	frames, ends := agentproto.NewReader(conn), 0
	for {
		f, err := frames.Next()
		if err != nil {
			break // the connection has ended
		}
		ends++
		if f.Kind != agentproto.KindDone {
			t.Errorf("frame of kind %d", f.Kind)
			continue
		}
		if exit, err := agentproto.DecodeExit(f.Payload); err != nil || exit.Code == 0 {
			t.Errorf("%+v, %v", exit, err)
		}
	}
	if ends != 1 {
		t.Errorf("%d operations have ended", ends)
	}
}
