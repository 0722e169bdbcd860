package runtime

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// Terminal is one that a program is to have.
type Terminal struct {
	// TerminalSize is that at the beginning; zero means 24 rows of 80 columns.
	sandbox.TerminalSize
	// Term is the value of TERM; empty means "xterm".
	Term string `json:"term,omitempty"`
	// Resize gives a foreground program's terminal new sizes, for a caller in this process.
	Resize <-chan sandbox.TerminalSize `json:"-"`
}

func (t *Terminal) sandbox() *sandbox.Terminal {
	if t == nil {
		return nil
	}
	with := sandbox.Terminal{Size: t.TerminalSize, Term: t.Term, Resize: t.Resize}.WithDefaults()
	return &with
}

// screen is the terminal of a background process. Its methods may be called concurrently.
type screen struct {
	// changes has the newest size that the system was not told yet.
	changes chan sandbox.TerminalSize

	mu       sync.Mutex
	size     sandbox.TerminalSize
	attached int // clients
}

// maxAttached bounds the clients of one process: each holds something of what it types.
const maxAttached = 16

func (w *screen) attach() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.attached >= maxAttached {
		return false
	}
	w.attached++
	return true
}

func (w *screen) detach() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attached--
}

func newScreen(size sandbox.TerminalSize) *screen {
	return &screen{changes: make(chan sandbox.TerminalSize, 1), size: size}
}

func (w *screen) now() sandbox.TerminalSize {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.size
}

func (w *screen) resize(size sandbox.TerminalSize) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.size = size
	NewestSize(w.changes, size)
}

// NewestSize sends a size in place of one that nobody has taken yet. The channel holds one, and nobody else sends to it at
// the same time.
func NewestSize(to chan sandbox.TerminalSize, size sandbox.TerminalSize) {
	select {
	case <-to: // nobody needs that one any more
	default:
	}
	to <- size // there is room
}

// ResizeRequest is what Resize takes.
type ResizeRequest struct {
	Process string `json:"process"`
	sandbox.TerminalSize
}

// Resize gives the terminal of a background process another size.
func (s *Session) Resize(ctx context.Context, req ResizeRequest) (info ProcessInfo, err error) {
	_, c, err := s.call(ctx, "resize", "", CanExec)
	c.quiet = true // there are many when a window is drawn larger
	c.note("process", req.Process)
	defer c.end(&err)
	if err != nil {
		return info, err
	}
	p, err := s.terminalOf(c.op, req.Process)
	if err != nil {
		return info, err
	}
	c.sandbox = p.b.id
	if !req.Valid() {
		return info, refuse(CodeInvalid, c.op, "give both, at most "+strconv.Itoa(sandbox.MaxTerminalSize), "a terminal of %d rows and %d columns", req.Rows, req.Cols)
	}
	if !p.running() {
		return info, refuse(CodeConflict, c.op, "poll it for its end", "the process has ended")
	}
	p.screen.resize(req.TerminalSize)
	return p.info(), nil
}

func (s *Session) terminalOf(op, id string) (*process, error) {
	p, err := s.process(op, id)
	if err == nil && p.screen == nil {
		err = refuse(CodeConflict, op, "follow its output, and write to its standard input", "process %s has no terminal", p.id)
	}
	return p, err
}

// AttachRequest is what Attach takes.
type AttachRequest struct {
	Process string
	// From is the offset of the first byte of output that is wanted; negative counts from the end.
	From int64
	// Input is what is typed. Its end is not passed on: the process goes on without whoever was attached.
	Input io.Reader
	// Output gets what is written to the terminal. While it takes nothing the process goes on, and what it may
	// have missed then is told to Skipped.
	Output  io.Writer
	Skipped func(bytes int64)
	// Resize gives the terminal new sizes; nil means none.
	Resize <-chan sandbox.TerminalSize
}

const (
	// attachChunk is how much is passed on at a time, in bytes.
	attachChunk = 32 << 10
	// typeRetry is how long to wait before a process that is behind in reading is given more.
	typeRetry = 50 * time.Millisecond
)

// Attach connects to the terminal of a background process until that has ended, whose end it returns, or until ctx ends or
// Output fails: the process goes on then. It may return before a blocked Read of Input does. There may be several at a
// time. It is a call only until it is connected: it holds up no end of the session nor of the runtime.
func (s *Session) Attach(ctx context.Context, req AttachRequest) (ProcessInfo, error) {
	p, err := s.attach(ctx, req)
	if err != nil {
		return ProcessInfo{}, err
	}
	defer p.screen.detach()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go p.typed(ctx, req.Input)
	go p.resized(ctx, req.Resize)
	if err := p.show(ctx, req); err != nil {
		return p.info(), s.r.translate("attach", p.b.id, err)
	}
	<-p.done
	return p.info(), nil
}

func (s *Session) attach(ctx context.Context, req AttachRequest) (p *process, err error) {
	_, c, err := s.call(ctx, "attach", "", CanExec)
	c.note("process", req.Process)
	defer c.end(&err)
	if err != nil {
		return nil, err
	}
	if p, err = s.terminalOf(c.op, req.Process); err == nil {
		c.sandbox = p.b.id
		if !p.screen.attach() {
			err = refuse(CodeConflict, c.op, "disconnect one of them", "%d are connected to process %s, and that is the most", maxAttached, p.id)
		}
	}
	return p, err
}

// DenyTerminal refuses a terminal to a caller who may not run programs though the session may: one with a view token. The
// terminal is a sandbox's, for a program, or that of a process; the other ID is empty. It always returns an error, and is in
// the audit log like what the session refuses.
func (s *Session) DenyTerminal(ctx context.Context, sandboxID, processID string) (err error) {
	op := "run"
	if processID != "" {
		op = "attach"
	}
	_, c, err := s.call(ctx, op, sandboxID, CanExec)
	c.note("process", processID)
	defer c.end(&err)
	if err != nil {
		return err
	}
	if p, err := s.process(op, processID); err == nil {
		c.sandbox = p.b.id
	}
	return refuse(CodeDenied, op, "use a token of the tenant that is no view token", "who bears this token may not run programs")
}

// typed passes on what is typed while ctx lasts.
func (p *process) typed(ctx context.Context, in io.Reader) {
	buf := make([]byte, attachChunk)
	for in != nil {
		n, err := in.Read(buf)
		for n > 0 {
			if ctx.Err() != nil {
				return
			}
			full := p.stdin.add(string(buf[:n]), false)
			if full == nil {
				break
			}
			if errors.Is(full, errFeedClosed) {
				return
			}
			select {
			case <-time.After(typeRetry):
			case <-ctx.Done():
			case <-p.done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *process) resized(ctx context.Context, sizes <-chan sandbox.TerminalSize) {
	for {
		select {
		case size, more := <-sizes:
			if !more {
				return
			}
			if size.Valid() {
				p.screen.resize(size)
			}
		case <-ctx.Done():
			return
		}
	}
}

// show writes the output until its end.
func (p *process) show(ctx context.Context, req AttachRequest) error {
	for offset := req.From; ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		data, at, skipped, total, ended := p.out.stdout.read(offset, attachChunk)
		if skipped > 0 && req.Skipped != nil {
			req.Skipped(skipped)
		}
		if offset = at + int64(len(data)); len(data) > 0 {
			if _, err := req.Output.Write(data); err != nil {
				return err
			}
			continue
		}
		if ended && offset == total {
			return nil
		}
		more := p.out.stdout.after(offset)
		if more == nil {
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
		}
	}
}
