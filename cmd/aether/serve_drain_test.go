package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

// pipeListener accepts one connection, in memory.
type pipeListener struct {
	conn chan net.Conn
	once sync.Once
	done chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

// writer is a function that is written to.
type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestDrainCutsWhoTakesNothing has a server end, some seconds after its runtime, though a client does not take its answer.
func TestDrainCutsWhoTakesNothing(t *testing.T) {
	state := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		rt, err := runtime.Open(t.Context(), runtime.Config{StateDir: state, Drivers: []sandbox.Driver{runtimetest.New("gvisor")}, Images: &runtimetest.Images{}, DefaultImage: "base"})
		if err != nil {
			t.Fatal(err)
		}
		tenant, err := rt.Local(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		session, err := rt.OpenSession(t.Context(), tenant.ID, runtime.SessionSpec{})
		if err != nil {
			t.Fatal(err)
		}
		box, err := session.Create(t.Context(), runtime.CreateRequest{})
		if err != nil {
			t.Fatal(err)
		}
		l := &pipeListener{conn: make(chan net.Conn, 1), done: make(chan struct{})}
		var once sync.Once
		begun, cut := make(chan struct{}), make(chan error, 1)
		server := newServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, err := session.Run(context.Background(), runtime.RunRequest{Sandbox: box.ID, Shell: "flood 100000000", Stdout: writer(func(p []byte) (int, error) {
				once.Do(func() { close(begun) }) // not before: what has not begun is refused
				return w.Write(p)
			})})
			cut <- err
		}))
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		near, far := net.Pipe()
		l.conn <- far
		go func() { _, _ = io.WriteString(near, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") }()
		<-begun
		var errs bytes.Buffer
		start := time.Now()
		(&app{err: &errs}).drain(rt, []*http.Server{server}, time.Second)
		if d := time.Since(start); d < cutAfter || d > cutAfter+5*time.Second {
			t.Errorf("it took %v", d)
		}
		if err := <-cut; err == nil {
			t.Error("its program ended well")
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the server ended with %v", err)
		}
		_ = near.Close()
	})
}
