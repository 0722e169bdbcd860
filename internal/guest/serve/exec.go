package serve

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/guest/pty"
	"github.com/aethervm/aether/sandbox"
)

// pipeSize of standard streams: the default of 64 KiB costs twice the context switches.
const pipeSize = 256 << 10

// exec runs a program. It returns when the program has ended and what it wrote has been sent; what
// it left running goes on, but is no longer listened to.
func (s *Server) exec(c *conn, e agentproto.Exec) (agentproto.Exit, error) {
	path, err := lookPath(e)
	if err != nil {
		return agentproto.Exit{}, err
	}
	pipes, err := openStreams(e)
	if err != nil {
		return agentproto.Exit{}, fmt.Errorf("start %s: %w", e.Args[0], err)
	}
	defer pipes.close()
	copied := s.Machine.Copied() // before: once it runs, the machine may be copied
	process, err := s.Machine.Start(Program{Path: path, Args: e.Args, Env: e.Env, Dir: e.Dir, Stdio: pipes.child, Terminal: pipes.terminal != nil})
	if err != nil {
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOMEM) {
			err = fmt.Errorf("%w: %w", sandbox.ErrCannotRun, err)
		}
		return agentproto.Exit{}, fmt.Errorf("%s: %w", e.Args[0], err)
	}
	defer process.Release()
	pipes.closeChild()
	return newRun(s.Machine, c, process, pipes, copied).finish(e.Timeout), nil
}

// run is a program that runs, with the goroutines that serve it.
type run struct {
	machine Machine
	c       *conn
	process Process
	pipes   *pipes
	input   *inputBuffer
	// cut is closed when the program is to be killed because nobody is there to be served.
	cut     chan struct{}
	cutOnce sync.Once
	killed  chan struct{} // closed by the host's request to kill
	copied  int           // the machine's count when the program started
	over    atomic.Bool   // the program and its output have ended: what comes now is not for it
	next    chan following
}

func newRun(m Machine, c *conn, p Process, pipes *pipes, copied int) *run {
	return &run{
		machine: m, c: c, process: p, pipes: pipes, input: newInputBuffer(),
		cut: make(chan struct{}), killed: make(chan struct{}), copied: copied, next: make(chan following, 1),
	}
}

// cutOff ends the program because its connection is broken. But a copy of a machine that was made
// while it was frozen has lost its connections through no will of anybody, and may notice after it was
// thawed: there the program goes on, with its input at an end and its output dropped.
func (r *run) cutOff() {
	r.cutOnce.Do(func() {
		if r.machine.Frozen() || r.machine.Copied() != r.copied {
			if r.pipes.terminal != nil {
				r.input.stop() // nobody types any more, the end of the input neither
			} else {
				r.input.end()
			}
			return
		}
		close(r.cut)
	})
}

// finish serves the program until it has ended.
func (r *run) finish(timeout time.Duration) agentproto.Exit {
	var outputs sync.WaitGroup
	if r.pipes.terminal != nil {
		outputs.Go(r.sendScreen)
		go r.typeInput()
	} else {
		outputs.Go(func() { r.sendOutput(r.pipes.stdout, agentproto.KindOutput) })
		outputs.Go(func() { r.sendOutput(r.pipes.stderr, agentproto.KindErrorOutput) })
	}
	go r.receive()
	if r.pipes.stdin != nil {
		go r.feed()
	}

	var expired <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		expired = timer.C
	}
	var exit agentproto.Exit
	select {
	case <-r.process.Done():
	case <-expired:
		exit.TimedOut = true
		r.process.Kill()
	case <-r.killed:
		r.process.Kill()
	case <-r.cut:
		r.process.Kill()
	}
	<-r.process.Done()
	exit.Code, exit.Signal = r.process.Status()
	if exit.TimedOut {
		exit.Code, exit.Signal = -1, int(unix.SIGKILL)
	}
	r.input.stop()
	// Wakes the senders: from now on they only send what is in the pipes already.
	if r.pipes.terminal != nil {
		r.pipes.terminal.Finish()
	} else {
		_ = r.pipes.stdout.SetReadDeadline(time.Unix(1, 0))
		_ = r.pipes.stderr.SetReadDeadline(time.Unix(1, 0))
	}
	outputs.Wait()
	r.over.Store(true)
	r.c.next = r.next
	return exit
}

// receive takes the host's frames until one comes that is not the program's, or the connection ends.
func (r *run) receive() {
	for {
		f, err := r.c.frames.Next()
		if err != nil || f.Kind == agentproto.KindRequest && r.over.Load() {
			r.next <- following{f, err}
			if err != nil {
				r.cutOff()
			}
			return
		}
		switch f.Kind {
		case agentproto.KindInput:
			if r.pipes.stdin == nil && r.pipes.terminal == nil || !r.input.add(f.Payload) {
				r.refuse("more input than the window has") // no such window was given
				return
			}
		case agentproto.KindInputEnd:
			r.input.end()
		case agentproto.KindResize:
			if err := r.resize(f.Payload); err != nil {
				r.refuse("a size of the terminal: %v", err)
				return
			}
		case agentproto.KindKill:
			select {
			case <-r.killed:
			default:
				close(r.killed)
			}
		default:
			r.refuse("a frame of kind %d in an exec", f.Kind)
			return
		}
	}
}

// refuse ends the program, and the connection with it, for something that the host must not send.
func (r *run) refuse(format string, args ...any) {
	r.next <- following{err: fmt.Errorf("%w: "+format, append([]any{agentproto.ErrProtocol}, args...)...)}
	r.cutOff()
}

// feed passes input on to the program.
func (r *run) feed() {
	defer r.pipes.stdin.Close()
	r.c.passInput(r.input, r.pipes.stdin, r.cutOff)
}

// firstOutput is how much a program's first output may have at a time. Most programs write less, and the buffer for more
// would be cleared for each: in a fresh copy of a machine that is memory of its own.
const firstOutput = 4<<10 - agentproto.HeaderSize

// sendOutput sends what the program writes, until all writers have closed the pipe, or the program
// has ended and the pipe is empty.
func (r *run) sendOutput(pipe *os.File, kind agentproto.Kind) {
	buf := make([]byte, agentproto.HeaderSize+firstOutput)
	left := -1 // what is still to be sent after the program's end; -1: it runs
	for left != 0 {
		room := buf[agentproto.HeaderSize:]
		if left > 0 {
			room = room[:min(left, len(room))]
		}
		n, err := pipe.Read(room)
		if n > 0 {
			if left > 0 {
				left -= n
			}
			// After a failure the output is read on and dropped: either the program is being killed,
			// or it is to go on without anybody listening.
			if r.c.writeSealed(kind, buf[:agentproto.HeaderSize+n]) != nil {
				r.cutOff()
			}
		}
		if n == len(buf)-agentproto.HeaderSize && n < agentproto.MaxData {
			buf = make([]byte, agentproto.HeaderSize+agentproto.MaxData)
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			// What descendants write from now on is not the program's output.
			left = buffered(pipe)
			_ = pipe.SetReadDeadline(time.Time{})
		case err != nil:
			return
		}
	}
}

// buffered tells how many bytes a pipe holds.
func buffered(pipe *os.File) int {
	n := 0
	if raw, err := pipe.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if v, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ); err == nil {
				n = v
			}
		})
	}
	return n
}

// pipes are the standard streams of a program.
type pipes struct {
	stdin, stdout, stderr *os.File      // the agent's ends; stdin may be nil
	terminal              *pty.Terminal // not nil: it is all of them
	child                 [3]*os.File
}

func openStreams(e agentproto.Exec) (*pipes, error) {
	p := &pipes{}
	var err error
	if e.Terminal != nil {
		err = p.openTerminal(e.Terminal.Size)
	} else {
		err = p.open(e.Input)
	}
	if err != nil {
		p.close()
	}
	return p, err
}

func (p *pipes) open(input bool) (err error) {
	if p.stdout, p.child[1], err = os.Pipe(); err != nil {
		return err
	}
	if p.stderr, p.child[2], err = os.Pipe(); err != nil {
		return err
	}
	if !input {
		p.child[0], err = os.Open(os.DevNull)
		return err
	}
	if p.child[0], p.stdin, err = os.Pipe(); err != nil {
		return err
	}
	for _, f := range []*os.File{p.stdin, p.stdout} {
		if raw, err := f.SyscallConn(); err == nil {
			// No more than a wish: it fails when the user's pipes take too much memory.
			_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
		}
	}
	return nil
}

func (p *pipes) closeChild() {
	if p.terminal != nil {
		return // it stays open, as long as the program runs
	}
	for _, f := range p.child {
		if f != nil {
			_ = f.Close()
		}
	}
}

// close may be called with pipes that are closed already.
func (p *pipes) close() {
	if p.terminal != nil {
		p.terminal.Close()
	}
	p.closeChild()
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// lookPath finds the program as a shell would, in the PATH that it will have.
func lookPath(e agentproto.Exec) (string, error) {
	name := e.Args[0]
	if info, err := os.Stat(e.Dir); err != nil || !info.IsDir() {
		return "", fmt.Errorf("%w: %s: working directory %s does not exist", sandbox.ErrCannotRun, name, e.Dir)
	}
	if strings.Contains(name, "/") {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(e.Dir, path)
		}
		if err := executable(path); err != nil {
			return "", fmt.Errorf("%w: %s: %w", sandbox.ErrCannotRun, name, err)
		}
		return path, nil
	}
	var path string
	for _, kv := range e.Env {
		if value, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = value
		}
	}
	var denied error
	for dir := range strings.SplitSeq(path, ":") {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(e.Dir, dir) // an empty element is the working directory
		}
		candidate := filepath.Join(dir, name)
		err := executable(candidate)
		if err == nil {
			return candidate, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			denied = err
		}
	}
	if denied != nil {
		return "", fmt.Errorf("%w: %s: %w", sandbox.ErrCannotRun, name, denied)
	}
	return "", fmt.Errorf("%w: %s: not found in PATH %q", sandbox.ErrCannotRun, name, path)
}

func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return &fs.PathError{Op: "exec", Path: path, Err: unix.EISDIR}
	case info.Mode()&0o111 == 0:
		return &fs.PathError{Op: "exec", Path: path, Err: unix.EACCES}
	}
	return nil
}
