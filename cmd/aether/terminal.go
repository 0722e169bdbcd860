package main

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
	"github.com/aethervm/aether/sandbox"
)

// ttyOption says whether a program gets a terminal.
type ttyOption struct {
	mode  string
	never bool
}

const (
	ttyAuto   = "auto"
	ttyAlways = "always"
	ttyNever  = "never"
)

func (o *ttyOption) register(flags *pflag.FlagSet) {
	flags.StringVarP(&o.mode, "tty", "t", ttyAuto, "give the program a terminal: `auto`, when standard input and output are one, always, or never")
	flags.Lookup("tty").NoOptDefVal = ttyAlways
	flags.BoolVarP(&o.never, "no-tty", "T", false, "give the program no terminal, as --tty=never")
}

// help of the commands that have the option.
const ttyHelp = `The program gets a terminal if standard input and output are one, as with "docker run -it": keys
go to it as they are typed, Ctrl-C too, and it learns of changes of the window's size. -t gives it
one always, -T never. Whatever it writes comes to your own terminal as it is, escape sequences
too.`

// check refuses what is no mode.
func (o *ttyOption) check() error {
	if o.never {
		o.mode = ttyNever
	}
	switch o.mode {
	case ttyAuto, ttyAlways, ttyNever:
		return nil
	}
	return usageError("use auto, always or never", "--tty=%s: there is no such mode", o.mode)
}

// seat is the terminal that aether itself is used at.
type seat struct {
	in    *os.File // nil if standard input is no terminal
	shown *os.File // a terminal whose size counts; nil if there is none
	sizes chan sandbox.TerminalSize

	mu   sync.Mutex
	back func() // what makes the terminal what it was; nil if it is
}

// seat is nil if a program is to get no terminal.
func (a *app) seat(o ttyOption) *seat {
	in, out := terminalOf(a.in), terminalOf(a.out)
	if o.mode == ttyNever || o.mode == ttyAuto && (in == nil || out == nil) {
		return nil
	}
	c := &seat{in: in, shown: out, sizes: make(chan sandbox.TerminalSize, 1)}
	if c.shown == nil {
		c.shown = in
	}
	return c
}

func terminalOf(stream any) *os.File {
	if f, ok := stream.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// size is zero if it is not known.
func (c *seat) size() (size sandbox.TerminalSize) {
	if c.shown == nil {
		return size
	}
	cols, rows, err := term.GetSize(int(c.shown.Fd()))
	if err != nil || rows <= 0 || cols <= 0 {
		return size
	}
	return sandbox.TerminalSize{Rows: uint16(min(rows, sandbox.MaxTerminalSize)), Cols: uint16(min(cols, sandbox.MaxTerminalSize))}
}

// kind is the type of the terminal, if there is one and the type can be one of a program's.
func (c *seat) kind() string {
	kind := os.Getenv("TERM")
	if c.shown == nil || (sandbox.Terminal{Term: kind}).Check() != nil {
		return ""
	}
	return kind
}

// terminal is the one that a program is to have. It is nil if c is.
func (c *seat) terminal() *sandbox.Terminal {
	if c == nil {
		return nil
	}
	return &sandbox.Terminal{Size: c.size(), Term: c.kind(), Resize: c.sizes}
}

func (c *seat) runtime() *runtime.Terminal {
	if c == nil {
		return nil
	}
	return &runtime.Terminal{TerminalSize: c.size(), Term: c.kind(), Resize: c.sizes}
}

func (c *seat) rest() *rest.Terminal {
	size := c.size()
	return &rest.Terminal{Rows: size.Rows, Cols: size.Cols, Term: c.kind()}
}

// enter has every key go to the program, and its changes of size into sizes, until leave, which must be called, or a
// signal that ends aether. With a nil seat it does nothing.
func (c *seat) enter() error {
	if c == nil || c.shown == nil {
		return nil
	}
	var before *term.State
	if c.in != nil {
		var err error
		if before, err = term.MakeRaw(int(c.in.Fd())); err != nil {
			return failed(err, "use -T", "have every key go to the program: %v", err)
		}
	}
	// A second signal that ends aether does so at once, and SIGQUIT always does.
	ends, changes, over := make(chan os.Signal, 1), make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(ends, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	signal.Notify(changes, syscall.SIGWINCH)
	c.mu.Lock()
	c.back = func() {
		signal.Stop(ends)
		signal.Stop(changes)
		close(over)
		if before != nil {
			_ = term.Restore(int(c.in.Fd()), before) // the terminal may be gone
		}
	}
	c.mu.Unlock()
	go func() {
		for {
			select {
			case <-changes:
				c.resized()
			case s := <-ends:
				c.leave()
				if s == syscall.SIGQUIT {
					_ = syscall.Kill(os.Getpid(), syscall.SIGQUIT)
				}
				return
			case <-over:
				return
			}
		}
	}()
	return nil
}

// resized tells the newest size. Only one goroutine calls it.
func (c *seat) resized() {
	if size := c.size(); size.Valid() {
		runtime.NewestSize(c.sizes, size)
	}
}

// leave makes the terminal what it was. It may be called again.
func (c *seat) leave() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.back != nil {
		c.back()
		c.back = nil
	}
}

// parseKeys reads a sequence of keys such as "ctrl-p,ctrl-q" or "~,.".
func parseKeys(text string) ([]byte, error) {
	var keys []byte
	for key := range strings.SplitSeq(text, ",") {
		name, control := strings.CutPrefix(strings.ToLower(key), "ctrl-")
		switch {
		case !control && len(key) == 1:
			keys = append(keys, key[0])
		case control && len(name) == 1 && (name[0] >= 'a' && name[0] <= 'z' || strings.Contains(`@[\]^_`, name)):
			keys = append(keys, name[0]&0x1f)
		default:
			return nil, usageError("such as ctrl-p,ctrl-q", "--detach-keys %q: keys are single characters, or ctrl- and a letter, with commas between them", text)
		}
	}
	return keys, nil
}

// errDetached is what ends the reading of a keyboard on which the keys to detach were typed.
var errDetached = errors.New("detached")

// keyboard passes on what is typed until the keys to detach are, which are called for.
type keyboard struct {
	r      io.Reader
	keys   []byte
	detach func()

	typed int    // of the keys, that were not passed on
	ready []byte // to be passed on
	err   error
}

func (k *keyboard) Read(p []byte) (int, error) {
	for len(k.ready) == 0 {
		if k.err != nil {
			return 0, k.err
		}
		buf := make([]byte, len(p))
		n, err := k.r.Read(buf)
		k.take(buf[:n])
		if k.err == nil {
			k.err = err
			if err != nil { // nothing follows that could make them the keys
				k.ready = append(k.ready, k.keys[:k.typed]...)
			}
		}
	}
	n := copy(p, k.ready)
	k.ready = k.ready[n:]
	return n, nil
}

func (k *keyboard) take(data []byte) {
	for _, b := range data {
		for k.typed > 0 && b != k.keys[k.typed] {
			// What was typed may end in the beginning of the keys.
			held := append([]byte(nil), k.keys[:k.typed]...)
			k.typed--
			for k.typed > 0 && string(held[len(held)-k.typed:]) != string(k.keys[:k.typed]) {
				k.typed--
			}
			k.ready = append(k.ready, held[:len(held)-k.typed]...)
		}
		if b != k.keys[k.typed] {
			k.ready = append(k.ready, b)
			continue
		}
		if k.typed++; k.typed == len(k.keys) {
			k.typed, k.err = 0, errDetached
			k.detach()
			return
		}
	}
}
