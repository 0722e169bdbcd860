package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guest/pty"
	"github.com/aethervm/aether/sandbox"
)

// person sits at a terminal that aether is used at.
type person struct {
	*pty.Terminal
	reading sync.WaitGroup

	mu   sync.Mutex
	seen bytes.Buffer
}

func sitDown(t *testing.T) *person {
	t.Helper()
	term, err := pty.Open(sandbox.TerminalSize{Rows: 33, Cols: 101})
	if err != nil {
		t.Skip(err)
	}
	p := &person{Terminal: term}
	buf := make([]byte, 8<<10)
	p.reading.Go(func() {
		term.Output(buf, func(n int) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.seen.Write(buf[:n])
		})
	})
	t.Cleanup(func() {
		term.Finish()
		p.reading.Wait()
		term.Close()
	})
	return p
}

func (p *person) screen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

// waits for a text on the screen, and then types.
func (p *person) types(t *testing.T, after, keys string) {
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(p.screen(), after); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("%q is not on the screen: %q", after, p.screen())
			return
		}
	}
	if _, err := io.WriteString(p.Terminal, keys); err != nil {
		t.Error(err)
	}
}

func (p *person) mode(t *testing.T) unix.Termios {
	t.Helper()
	mode, err := unix.IoctlGetTermios(int(p.Program.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *mode
}

// TestTerminalIsRestored by every way out.
func TestTerminalIsRestored(t *testing.T) {
	p := sitDown(t)
	a := &app{in: p.Program, out: p.Program, err: io.Discard}
	before := p.mode(t)
	seat := a.seat(ttyOption{mode: ttyAuto})
	if seat == nil || seat.size() != (sandbox.TerminalSize{Rows: 33, Cols: 101}) {
		t.Fatalf("%+v", seat)
	}
	enter := func() {
		t.Helper()
		if err := seat.enter(); err != nil {
			t.Fatal(err)
		}
		if mode := p.mode(t); mode.Lflag&(unix.ICANON|unix.ISIG|unix.ECHO) != 0 {
			t.Errorf("it is not raw: %+v", mode)
		}
	}
	restored := func(how string) {
		t.Helper()
		for range 500 {
			if reflect.DeepEqual(p.mode(t), before) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("%s: %+v, before %+v", how, p.mode(t), before)
	}
	enter()
	seat.leave()
	seat.leave()
	restored("leave")
	func() {
		defer func() { _ = recover() }()
		defer seat.leave()
		enter()
		panic("a fault")
	}()
	restored("panic")
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		enter()
		if err := syscall.Kill(os.Getpid(), s); err != nil {
			t.Fatal(err)
		}
		restored(s.String())
		seat.leave()
	}
	enter()
	if err := errors.Join(p.Resize(sandbox.TerminalSize{Rows: 5, Cols: 7}), syscall.Kill(os.Getpid(), syscall.SIGWINCH)); err != nil {
		t.Fatal(err)
	}
	select {
	case size := <-seat.sizes:
		if size != (sandbox.TerminalSize{Rows: 5, Cols: 7}) {
			t.Errorf("%v", size)
		}
	case <-time.After(10 * time.Second):
		t.Error("its new size is not told")
	}
	seat.leave()
	restored("in the end")
}

func TestWhoGetsATerminal(t *testing.T) {
	p := sitDown(t)
	for _, c := range []struct {
		in   io.Reader
		out  io.Writer
		mode ttyOption
		want bool
	}{
		{p.Program, p.Program, ttyOption{mode: ttyAuto}, true},
		{p.Program, io.Discard, ttyOption{mode: ttyAuto}, false},
		{strings.NewReader(""), p.Program, ttyOption{mode: ttyAuto}, false},
		{strings.NewReader(""), io.Discard, ttyOption{mode: ttyAlways}, true},
		{p.Program, p.Program, ttyOption{mode: ttyNever}, false},
		{p.Program, p.Program, ttyOption{mode: ttyAlways, never: true}, false},
	} {
		if err := c.mode.check(); err != nil {
			t.Error(err)
		}
		if got := (&app{in: c.in, out: c.out}).seat(c.mode); (got != nil) != c.want {
			t.Errorf("%+v: %+v", c, got)
		}
	}
	if err := (&ttyOption{mode: "maybe"}).check(); err == nil {
		t.Error("maybe is a mode")
	}
	var none *seat
	if err := none.enter(); err != nil || none.terminal() != nil || none.runtime() != nil {
		t.Error("without a terminal there is something to do")
	}
	none.leave()
}

func TestKeys(t *testing.T) {
	for text, want := range map[string]string{"ctrl-p,ctrl-q": "\x10\x11", "~,.": "~.", "ctrl-@": "\x00", "Ctrl-A": "\x01", "ctrl-]": "\x1d"} {
		if keys, err := parseKeys(text); string(keys) != want || err != nil {
			t.Errorf("%s: %q, %v", text, keys, err)
		}
	}
	for _, bad := range []string{"", "ctrl-", "ctrl-p,", "ctrl-1", "ab", "ctrl-é"} {
		if keys, err := parseKeys(bad); err == nil {
			t.Errorf("%q: %q", bad, keys)
		}
	}
	for in, want := range map[string]struct {
		out      string
		detached bool
	}{
		"abc": {"abc", false}, "a\x10\x11b": {"a", true}, "\x10": {"\x10", false}, "\x10\x10\x11": {"\x10", true},
		"\x10a\x11": {"\x10a\x11", false}, "\x11\x10": {"\x11\x10", false}, "": {"", false},
	} {
		for name, r := range map[string]io.Reader{"at once": strings.NewReader(in), "byte by byte": iotest.OneByteReader(strings.NewReader(in)), "with its end": iotest.DataErrReader(strings.NewReader(in))} {
			detached := false
			k := &keyboard{r: r, keys: []byte{0x10, 0x11}, detach: func() { detached = true }}
			out, err := io.ReadAll(k)
			if string(out) != want.out || detached != want.detached || errors.Is(err, errDetached) != want.detached {
				t.Errorf("%q %s: %q, %v, %v", in, name, out, detached, err)
			}
		}
	}
	// Keys of which the beginning comes again.
	k := &keyboard{r: strings.NewReader("aabaab"), keys: []byte("aabx"), detach: func() { t.Error("detached") }}
	if out, err := io.ReadAll(k); string(out) != "aabaab" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}

// testTerminals uses programs in a sandbox of a server as a person does.
func testTerminals(t *testing.T, sb string) {
	use := func(typing func(p *person), args ...string) (int, string) {
		p := sitDown(t)
		before := p.mode(t)
		var errs bytes.Buffer
		done := make(chan struct{})
		go func() {
			defer close(done)
			typing(p)
		}()
		code := run(args, p.Program, p.Program, &errs)
		<-done
		if after := p.mode(t); !reflect.DeepEqual(before, after) {
			t.Errorf("%q has left the terminal as %+v, it was %+v", args, after, before)
		}
		return code, p.screen() + errs.String()
	}
	code, screen := use(func(p *person) { p.types(t, "ready", "\x03") }, "exec", sb, "--", "sh", "-c", "trap 'exit 9' INT; stty size; echo ready; while :; do sleep 0.05; done")
	if code != 9 || !strings.HasPrefix(screen, "33 101\r\n") {
		t.Errorf("exec: %d, %q", code, screen)
	}
	code, screen = use(func(p *person) { p.types(t, "none\r\n", "") }, "exec", "-T", sb, "--", "sh", "-c", "test -t 1 || echo none")
	if code != 0 || screen != "none\r\n" {
		t.Errorf("exec -T: %d, %q", code, screen)
	}
	out, _ := runCommand(t, 0, "typed", "exec", "-t", sb, "--", "sh", "-c", "stty -echo; stty size; cat")
	if !strings.Contains(out, "24 80\r\n") || !strings.HasSuffix(out, "typed") {
		t.Errorf("exec -t without a terminal: %q", out)
	}
	out, _ = runCommand(t, 0, "", "exec", "-d", "-t", sb, "--", "sh", "-c", "stty -echo; echo ready; while read -r line; do case $line in size) stty size;; end) exit 7;; esac; done")
	process := line(out)
	code, screen = use(func(p *person) {
		p.types(t, "ready", "size\r")
		p.types(t, "33 101", "\x10\x11")
	}, "attach", process)
	if code != 0 || !strings.Contains(screen, "disconnected") {
		t.Errorf("attach: %d, %q", code, screen)
	}
	code, screen = use(func(p *person) { p.types(t, "33 101", "end\r") }, "attach", process)
	if code != 7 {
		t.Errorf("attach again: %d, %q", code, screen)
	}
	if code, screen = use(func(*person) {}, "attach", "--detach-keys", "x-y", process); code != exitOwnFailure {
		t.Errorf("bad keys: %d, %q", code, screen)
	}
}
