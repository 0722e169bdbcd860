package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
	"github.com/aethervm/aether/sandbox"
)

type screen struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

func (s *screen) waitFor(text string) bool {
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(s.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

func TestTerminal(t *testing.T) {
	c, _ := serve(t)
	id := create(t, c)
	sizes := make(chan sandbox.TerminalSize, 1)
	in, typing := io.Pipe()
	var out screen
	go func() {
		out.waitFor("40x100 vt100\n")
		sizes <- sandbox.TerminalSize{Rows: 5, Cols: 7}
		out.waitFor("5x7\n")
		_, _ = io.WriteString(typing, "typed \xff\x00")
		_ = typing.Close()
	}()
	run := rest.Run{Shell: "sizes; flood 200000; exit 3", Terminal: &rest.Terminal{Rows: 40, Cols: 100, Term: "vt100"}}
	res, err := c.Terminal(t.Context(), id, run, TerminalStreams{In: in, Out: &out, Resize: sizes})
	if err != nil || res.ExitCode == nil || *res.ExitCode != 3 || !strings.Contains(out.String(), "typed \xff\x00") || len(out.String()) < 200_000 {
		t.Errorf("%+v, %v; %d bytes", res, err, len(out.String()))
	}
	if res, err = c.Terminal(t.Context(), id, rest.Run{Shell: "sizes"}, TerminalStreams{}); err != nil || *res.ExitCode != 0 {
		t.Errorf("without any: %+v, %v", res, err)
	}
	for name, bad := range map[string]rest.Run{
		"background": {Shell: "true", Background: true}, "no command": {}, "no rows": {Shell: "true", Terminal: &rest.Terminal{Cols: 1}},
	} {
		if _, err := c.Terminal(t.Context(), id, bad, TerminalStreams{}); runtime.CodeOf(err) != runtime.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Terminal(t.Context(), "sbnone", run, TerminalStreams{}); runtime.CodeOf(err) != runtime.CodeNotFound {
		t.Errorf("no sandbox: %v", err)
	}
}

func TestTerminalIsCancelled(t *testing.T) {
	c, _ := serve(t)
	id := create(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	var out screen
	go func() {
		out.waitFor("24x80")
		cancel()
	}()
	never, typing := io.Pipe()
	defer typing.Close()
	if _, err := c.Terminal(ctx, id, rest.Run{Shell: "sizes"}, TerminalStreams{In: never, Out: &out}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// The program is ended: the sandbox is of use, and nothing runs in it but what is run now.
	if res, err := c.Terminal(t.Context(), id, rest.Run{Shell: "exit 1"}, TerminalStreams{}); err != nil || *res.ExitCode != 1 {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestAttachTerminal(t *testing.T) {
	c, _ := serve(t)
	id := create(t, c)
	started, err := c.Run(t.Context(), id, rest.Run{Shell: "sizes; exit 4", Background: true, Terminal: &rest.Terminal{Rows: 30, Cols: 90}}, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, detach := context.WithCancel(t.Context())
	sizes := make(chan sandbox.TerminalSize, 1)
	sizes <- sandbox.TerminalSize{Rows: 31, Cols: 91}
	var first, second screen
	go func() {
		first.waitFor("31x91")
		detach()
	}()
	never, typing := io.Pipe()
	defer typing.Close()
	if _, err := c.AttachTerminal(ctx, started.Process, 0, TerminalStreams{In: never, Out: &first, Resize: sizes}, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	in, typing2 := io.Pipe()
	typed := make(chan struct{})
	go func() {
		defer close(typed)
		second.waitFor("31x91")
		_, _ = io.WriteString(typing2, "hello")
		second.waitFor("hello")
		if err := c.WriteStdin(t.Context(), started.Process, nil, true); err != nil {
			t.Error(err)
		}
		_ = typing2.Close()
	}()
	p, err := c.AttachTerminal(t.Context(), started.Process, 0, TerminalStreams{In: in, Out: &second}, nil)
	_ = in.Close() // whoever still types is let go
	<-typed
	if err != nil || p.Running || *p.ExitCode != 4 || p.Terminal == nil || *p.Terminal != (sandbox.TerminalSize{Rows: 31, Cols: 91}) {
		t.Errorf("%+v, %v", p, err)
	}
	plain, err := c.Run(t.Context(), id, rest.Run{Shell: "sleep 100", Background: true}, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.AttachTerminal(t.Context(), plain.Process, 0, TerminalStreams{}, nil); runtime.CodeOf(err) != runtime.CodeConflict {
		t.Errorf("no terminal: %v", err)
	}
}

// A connection that breaks in the middle is not taken for the program's end, and the program is ended.
func TestTerminalIsCut(t *testing.T) {
	c, server := serve(t)
	id := create(t, c)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	both := make(chan [2]net.Conn, 1)
	go func() {
		near, err := l.Accept()
		if err != nil {
			return
		}
		far, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
		if err != nil {
			return
		}
		both <- [2]net.Conn{near, far}
		go func() { _, _ = io.Copy(far, near) }()
		_, _ = io.Copy(near, far)
	}()
	cut, err := New("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	cut.header = c.header
	var out screen
	go func() {
		out.waitFor("24x80")
		for _, conn := range <-both {
			_ = conn.Close()
		}
	}()
	never, typing := io.Pipe()
	defer typing.Close()
	if _, err := cut.Terminal(t.Context(), id, rest.Run{Shell: "sizes"}, TerminalStreams{In: never, Out: &out}); !errors.Is(err, errCut) {
		t.Errorf("%v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var log struct{ Entries []rest.AuditEntry }
		if err := c.do(t.Context(), "GET", "/v1/audit", nil, nil, &log); err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(log.Entries, func(e rest.AuditEntry) bool { return e.Op == "run" && e.What["terminal"] == "24x80" }) {
			return // the call has ended
		}
		if time.Now().After(deadline) {
			t.Fatal("the program runs on")
		}
	}
}
