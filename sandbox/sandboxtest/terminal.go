package sandboxtest

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

// testTerminal tests terminals, or that a system without them says so before it has started anything.
func (s *suite) testTerminal(t *testing.T) {
	s.with(t, "Terminal", func(t *testing.T, b *box) {
		_, err := b.exec(t, sandbox.Cmd{Args: []string{"touch", "/tmp/started"}, Terminal: &sandbox.Terminal{}})
		if errors.Is(err, sandbox.ErrUnsupported) {
			if _, err := b.Stat(t.Context(), "/tmp/started"); err == nil {
				t.Error("the program was started though it could have no terminal")
			}
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Run("Basics", b.testTerminalBasics)
		t.Run("Size", b.testTerminalSize)
		t.Run("Keys", b.testTerminalKeys)
		t.Run("Output", b.testTerminalOutput)
		t.Run("End", b.testTerminalEnd)
	})
}

// person looks at a terminal and types.
type person struct {
	io.Reader
	keys *io.PipeWriter

	mu   sync.Mutex
	seen bytes.Buffer
}

func newPerson() *person {
	r, w := io.Pipe()
	return &person{Reader: r, keys: w}
}

func (p *person) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.Write(data)
}

func (p *person) screen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

// waits for a text on the screen.
func (p *person) waits(text string) bool {
	return eventually(20*time.Second, func() bool { return strings.Contains(p.screen(), text) })
}

func (p *person) types(keys string) { _, _ = io.WriteString(p.keys, keys) }

// sit runs a shell's line on a terminal with a person at it. after is called once the line has written "ready".
func (b *box) sit(t *testing.T, line string, terminal sandbox.Terminal, after func(p *person)) (result, *person) {
	t.Helper()
	p := newPerson()
	acted := make(chan struct{})
	go func() {
		defer close(acted)
		if !p.waits("ready") {
			_ = p.keys.CloseWithError(errors.New("the program is not ready"))
			return
		}
		after(p)
	}()
	cmd := shell(line)
	cmd.Terminal, cmd.Stdin, cmd.Stdout = &terminal, p, p
	r, err := b.exec(t, cmd)
	if err != nil {
		t.Errorf("%s: %v; on the screen: %q", line, err, p.screen())
	}
	<-acted
	_ = p.keys.Close()
	return r, p
}

func (b *box) testTerminalBasics(t *testing.T) {
	const python = `import os, sys
assert all(os.isatty(n) for n in (0, 1, 2))
open('/dev/tty', 'w').write('to the terminal\n')
print(os.environ['TERM'], file=sys.stderr)
sys.exit(7)`
	r, err := b.exec(t, sandbox.Cmd{Args: []string{"python3", "-c", python}, Terminal: &sandbox.Terminal{Term: "vt100"}})
	if err != nil || r.Code != 7 || r.stdout != "to the terminal\r\nvt100\r\n" || r.stderr != "" {
		t.Errorf("%v, %v, %q, %q", r.Exit, err, r.stdout, r.stderr)
	}
	cmd := shell("kill -TERM $$")
	cmd.Terminal = &sandbox.Terminal{}
	if r, err := b.exec(t, cmd); err != nil || r.Signal != 15 {
		t.Errorf("signal: %v, %v", r.Exit, err)
	}
	for name, cmd := range map[string]sandbox.Cmd{
		"no program":   {Args: []string{"no-such-program"}, Terminal: &sandbox.Terminal{}},
		"no directory": {Args: []string{"true"}, Dir: "/no/such/dir", Terminal: &sandbox.Terminal{}},
	} {
		if _, err := b.exec(t, cmd); !errors.Is(err, sandbox.ErrCannotRun) {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := shell("true")
	bad.Terminal = &sandbox.Terminal{Size: sandbox.TerminalSize{Rows: 24}}
	if _, err := b.exec(t, bad); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("no columns: %v", err)
	}
}

func (b *box) testTerminalSize(t *testing.T) {
	const line = `stty size; trap 'stty size; exit 4' WINCH; echo ready; while :; do sleep 0.05; done`
	sizes := make(chan sandbox.TerminalSize, 1)
	r, p := b.sit(t, line, sandbox.Terminal{Size: sandbox.TerminalSize{Rows: 33, Cols: 101}, Resize: sizes},
		func(*person) { sizes <- sandbox.TerminalSize{Rows: 44, Cols: 132} })
	if r.Code != 4 || !strings.HasPrefix(p.screen(), "33 101\r\n") || !strings.Contains(p.screen(), "44 132\r\n") {
		t.Errorf("%v, %q", r.Exit, p.screen())
	}
}

func (b *box) testTerminalKeys(t *testing.T) {
	r, p := b.sit(t, `trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done`, sandbox.Terminal{}, func(p *person) { p.types("\x03") })
	if r.Code != 9 {
		t.Errorf("0x03: %v, %q", r.Exit, p.screen())
	}
	r, p = b.sit(t, `echo ready; exec cat`, sandbox.Terminal{}, func(p *person) { p.types("\x03") })
	if r.Signal != 2 {
		t.Errorf("0x03 without a trap: %v, %q", r.Exit, p.screen())
	}
	r, p = b.sit(t, `stty -echo; echo ready; cat; echo over`, sandbox.Terminal{}, func(p *person) { p.types("one\ntwo\n\x04") })
	if r.Code != 0 || !strings.Contains(p.screen(), "one\r\ntwo\r\nover\r\n") {
		t.Errorf("0x04: %v, %q", r.Exit, p.screen())
	}
	r, p = b.sit(t, `stty -echo; echo ready; cat; echo over`, sandbox.Terminal{}, func(p *person) {
		p.types("half")
		_ = p.keys.Close()
	})
	if r.Code != 0 || !strings.Contains(p.screen(), "halfover\r\n") {
		t.Errorf("end of the input: %v, %q", r.Exit, p.screen())
	}
	// A shell that has job control, as a person has it.
	r, p = b.sit(t, `echo ready; exec sh -i`, sandbox.Terminal{}, func(p *person) {
		p.types("sleep 1000\n")
		time.Sleep(300 * time.Millisecond)
		p.types("\x03")
		p.types("echo after-$((40+2))\nexit 3\n")
	})
	if r.Code != 3 || !strings.Contains(p.screen(), "after-42") || strings.Contains(p.screen(), "job control") {
		t.Errorf("interactive shell: %v, %q", r.Exit, p.screen())
	}
}

func (b *box) testTerminalOutput(t *testing.T) {
	cmd := shell(`stty raw -echo; python3 -c "import sys; sys.stdout.buffer.write(bytes(range(256))*4096)"; printf end`)
	cmd.Terminal = &sandbox.Terminal{}
	r, err := b.exec(t, cmd)
	if want := strings.Repeat(allBytes(), 4096) + "end"; err != nil || r.stdout != want {
		t.Errorf("%d of %d bytes, or others; %v", len(r.stdout), len(want), err)
	}
	cmd = shell(`echo started; (trap '' HUP; sleep 1000) & echo over`)
	cmd.Terminal = &sandbox.Terminal{}
	began := time.Now()
	if r, err := b.exec(t, cmd); err != nil || !strings.Contains(r.stdout, "over") || time.Since(began) > 20*time.Second {
		t.Errorf("with a process left: %v, %q after %v", err, r.stdout, time.Since(began))
	}
}

func allBytes() string {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	return string(all)
}

func (b *box) testTerminalEnd(t *testing.T) {
	const sleepers = `n=0; for f in /proc/[0-9]*/comm; do grep -q '^sleep$' $f 2>/dev/null && n=$((n+1)); done; echo $n`
	before := b.sh(t, sleepers) // another test may have left one
	cmd := shell("trap '' INT HUP TERM; sleep 1012 & sleep 1012")
	cmd.Terminal, cmd.Timeout = &sandbox.Terminal{}, 500*time.Millisecond
	if r, err := b.exec(t, cmd); err != nil || !r.TimedOut || r.Signal != 9 {
		t.Errorf("time-out: %v, %v", r.Exit, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := newPerson()
	defer func() { _ = p.keys.Close() }()
	go func() {
		p.waits("ready")
		cancel()
	}()
	cmd = shell("trap '' INT HUP TERM; echo ready; sleep 1012 & while :; do echo busy; done")
	cmd.Terminal, cmd.Stdin, cmd.Stdout = &sandbox.Terminal{}, p, p
	if _, err := b.Exec(ctx, cmd); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if n := b.sh(t, sleepers); n != before {
		t.Errorf("sleeping before: %s, and now: %s", before, n)
	}
	// Nobody takes the output, and yet it is ended.
	ctx, cancel = context.WithCancel(t.Context())
	stuck := &stuckWriter{until: ctx.Done(), began: make(chan struct{})}
	go func() {
		<-stuck.began
		cancel()
	}()
	began := time.Now()
	cmd = shell("while :; do echo busy; done")
	cmd.Terminal, cmd.Stdout = &sandbox.Terminal{}, stuck
	if _, err := b.Exec(ctx, cmd); !errors.Is(err, context.Canceled) || time.Since(began) > 30*time.Second {
		t.Errorf("with output that nobody takes: %v after %v", err, time.Since(began))
	}
}

// stuckWriter takes nothing for a while.
type stuckWriter struct {
	until <-chan struct{}
	began chan struct{}
	once  sync.Once
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.began) })
	<-w.until
	return len(p), nil
}
