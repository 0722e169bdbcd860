package runtime

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// screenOf is output that may be looked at while it comes.
type screenOf struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (s *screenOf) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(p)
}

func (s *screenOf) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

func (s *screenOf) waitFor(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(s.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q is not on the screen: %q", text, s)
		}
	}
}

func TestRunWithTerminal(t *testing.T) {
	noLeaks(t)
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	sizes := make(chan sandbox.TerminalSize, 1)
	in, typing := io.Pipe()
	var out screenOf
	go func() {
		out.waitFor(t, "24x80 xterm\n")
		sizes <- sandbox.TerminalSize{Rows: 5, Cols: 7}
		out.waitFor(t, "5x7\n")
		_, _ = io.WriteString(typing, "typed")
		_ = typing.Close()
	}()
	res, err := s.Run(t.Context(), RunRequest{Sandbox: box, Shell: "sizes; exit 3", Stdin: in, Stdout: &out, Terminal: &Terminal{Resize: sizes}})
	if err != nil || *res.ExitCode != 3 || !strings.HasSuffix(out.String(), "typed") {
		t.Errorf("%+v, %v, %q", res, err, &out)
	}
	_, err = s.Run(t.Context(), RunRequest{Sandbox: box, Shell: "sizes", Terminal: &Terminal{TerminalSize: sandbox.TerminalSize{Rows: 1}}})
	want(t, "no columns", err, CodeInvalid)
	_, err = s.Run(t.Context(), RunRequest{Sandbox: box, Shell: "sizes", Background: true, Terminal: &Terminal{Resize: sizes}})
	want(t, "sizes of the background", err, CodeInvalid)
}

func TestOutputOfTerminalIsPaidFor(t *testing.T) {
	w := open(t, nil)
	s := w.session(t, SessionSpec{Budget: Budget{OutputBytes: 1000}})
	box := s.mustCreate(t, SandboxSpec{})
	_, err := s.Run(t.Context(), RunRequest{Sandbox: box, Shell: "flood 100000", Stdout: io.Discard, Terminal: &Terminal{}})
	want(t, "output", err, CodeBudget)
}

func TestAttach(t *testing.T) {
	noLeaks(t)
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	started, err := s.Run(t.Context(), RunRequest{Sandbox: box, Shell: "sizes; exit 4", Background: true,
		Terminal: &Terminal{TerminalSize: sandbox.TerminalSize{Rows: 30, Cols: 90}, Term: "vt100"}})
	if err != nil {
		t.Fatal(err)
	}
	id := started.Process
	info, err := s.Resize(t.Context(), ResizeRequest{id, sandbox.TerminalSize{Rows: 31, Cols: 91}})
	if err != nil || *info.Terminal != (sandbox.TerminalSize{Rows: 31, Cols: 91}) {
		t.Errorf("%+v, %v", info, err)
	}
	_, err = s.Resize(t.Context(), ResizeRequest{id, sandbox.TerminalSize{}})
	want(t, "no size", err, CodeInvalid)

	// The first of those who look on goes away, and the process goes on; another one comes and sees what was.
	ctx, detach := context.WithCancelCause(t.Context())
	errDetached := errors.New("detached")
	sizes := make(chan sandbox.TerminalSize, 1)
	sizes <- sandbox.TerminalSize{Rows: 32, Cols: 92}
	var first screenOf
	never, typing := io.Pipe()
	go func() {
		first.waitFor(t, "32x92")
		detach(errDetached)
	}()
	_, err = s.Attach(ctx, AttachRequest{Process: id, Input: never, Output: &first, Resize: sizes})
	if !errors.Is(err, errDetached) && CodeOf(err) != CodeCancelled || !strings.HasPrefix(first.String(), "30x90 vt100\n") {
		t.Errorf("%v, %q", err, &first)
	}
	_ = typing.Close()

	var second screenOf
	in, typing := io.Pipe()
	go func() {
		second.waitFor(t, "32x92")
		_, _ = io.WriteString(typing, "hello")
		second.waitFor(t, "hello")
		_ = typing.Close() // the process is not told
		if _, err := s.WriteStdin(t.Context(), StdinRequest{Process: id, Close: true}); err != nil {
			t.Error(err)
		}
	}()
	info, err = s.Attach(t.Context(), AttachRequest{Process: id, Input: in, Output: &second})
	if err != nil || info.Running || *info.ExitCode != 4 {
		t.Errorf("%+v, %v", info, err)
	}
	// One that has ended still shows what it wrote.
	var third screenOf
	if info, err = s.Attach(t.Context(), AttachRequest{Process: id, From: -5, Output: &third}); err != nil || third.String() != "hello" {
		t.Errorf("%+v, %v, %q", info, err, &third)
	}
	_, err = s.Resize(t.Context(), ResizeRequest{id, sandbox.TerminalSize{Rows: 1, Cols: 1}})
	want(t, "resize after the end", err, CodeConflict)

	p, err := s.process("test", id)
	if err != nil {
		t.Fatal(err)
	}
	for range maxAttached {
		if !p.screen.attach() {
			t.Fatal("somebody is attached still")
		}
	}
	_, err = s.Attach(t.Context(), AttachRequest{Process: id, Output: io.Discard})
	want(t, "too many", err, CodeConflict)
	plain := s.mustStart(t, box, "sleep 1000")
	_, err = s.Attach(t.Context(), AttachRequest{Process: plain, Output: io.Discard})
	want(t, "no terminal", err, CodeConflict)
	_, err = s.Resize(t.Context(), ResizeRequest{plain, sandbox.TerminalSize{Rows: 1, Cols: 1}})
	want(t, "no terminal", err, CodeConflict)
	reader := w.session(t, SessionSpec{ID: "reader", Capabilities: []Capability{CanRead}})
	_, err = reader.Attach(t.Context(), AttachRequest{Process: id, Output: io.Discard})
	want(t, "no capability", err, CodeDenied)
}

// Whoever is attached holds up no end of the session, and one who takes nothing holds up nobody.
func TestAttachedClientThatTakesNothing(t *testing.T) {
	noLeaks(t)
	w := open(t, nil)
	s := w.session(t, SessionSpec{ID: "s"})
	box := s.mustCreate(t, SandboxSpec{})
	started, err := s.Run(t.Context(), RunRequest{Sandbox: box, Shell: "flood 100000; sizes", Background: true, Terminal: &Terminal{}})
	if err != nil {
		t.Fatal(err)
	}
	stuck, release := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := s.Attach(context.Background(), AttachRequest{Process: started.Process, Output: release})
		ended <- err
	}()
	_, _ = stuck.Read(make([]byte, 10))
	began := time.Now()
	if err := s.Close(); err != nil || time.Since(began) > 10*time.Second {
		t.Errorf("close: %v after %v", err, time.Since(began))
	}
	_ = stuck.Close()
	if err := <-ended; err == nil {
		t.Error("it does not say that its output failed")
	}
}
