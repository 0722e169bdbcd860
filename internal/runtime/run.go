package runtime

import (
	"context"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

// Run runs a program in a sandbox: in the foreground until it ends, or in the background, which
// returns its handle. An exit code that is not 0, a signal and a timeout are results. When ctx ends,
// a foreground program is killed with all its descendants.
func (s *Session) Run(ctx context.Context, req RunRequest) (res RunResult, err error) {
	ctx, c, err := s.call(ctx, "run", req.Sandbox, CanExec)
	defer c.end(&err)
	c.note("command", req.command())
	if req.Terminal != nil {
		c.note("terminal", req.Terminal.sandbox().Size.String())
	}
	if err != nil {
		return res, err
	}
	if err := req.check(c.op); err != nil {
		return res, err
	}
	return do(ctx, c, req.Key, req, false, func() (RunResult, error) {
		if req.Background {
			return s.runBackground(ctx, c, req)
		}
		return s.runForeground(ctx, c, req)
	})
}

func (req *RunRequest) check(op string) error {
	switch {
	case (req.Shell == "") == (len(req.Args) == 0):
		return refuse(CodeInvalid, op, "give shell, a command line, or args, a program and its arguments", "there is no command, or there are two")
	case req.Stdin != nil && req.Input != "":
		return refuse(CodeInvalid, op, "give one of them", "there are two standard inputs")
	case req.Background && req.Terminal != nil && req.Terminal.Resize != nil:
		return refuse(CodeInvalid, op, "use Resize", "the terminal of a background process is not resized by the caller")
	case req.Background && (req.Stdin != nil || req.Stdout != nil || req.Stderr != nil || req.Progress != nil):
		return refuse(CodeInvalid, op, "use Poll and WriteStdin", "a background process has no streams of its own")
	}
	return req.cmd().Check()
}

func (req *RunRequest) cmd() sandbox.Cmd {
	args := req.Args
	if req.Shell != "" {
		args = []string{"/bin/sh", "-c", req.Shell}
	}
	return sandbox.Cmd{Args: args, Env: req.Env, Dir: req.Dir, Timeout: req.Timeout, Terminal: req.Terminal.sandbox()}
}

func (req *RunRequest) command() string {
	if req.Shell != "" {
		return req.Shell
	}
	return strings.Join(req.Args, " ")
}

func (s *Session) runForeground(ctx context.Context, c *call, req RunRequest) (res RunResult, err error) {
	b, done, err := s.target(ctx, c, req.Sandbox, req.Ephemeral)
	if err != nil {
		return res, err
	}
	defer done(&err)
	return s.runIn(ctx, c.op, b, req, func() { c.begun = true })
}

// runIn runs a foreground program in a box. begin is called when nothing but the program is left to be done.
func (s *Session) runIn(ctx context.Context, op string, b *box, req RunRequest, begin func()) (res RunResult, err error) {
	u, err := s.enterBox(ctx, op, b, forWork)
	if err != nil {
		return res, err
	}
	defer u.end()
	w := s.watch(b.id, req.Progress)
	cmd := req.cmd()
	cmd.Stdin = req.Stdin
	if req.Stdin == nil && req.Input != "" { // a system does less for an input that is none
		cmd.Stdin = strings.NewReader(req.Input)
	}
	cmd.Stdout, cmd.Stderr = w.writer(Stdout, req.Stdout), w.writer(Stderr, req.Stderr)
	start := time.Now()
	begin()
	exit, err := u.sb.Exec(u.ctx, cmd)
	if err = b.reason(u.ctx, err); err != nil {
		return res, err
	}
	res = RunResult{Sandbox: b.id, Ephemeral: b.ephemeral, DurationMS: time.Since(start).Milliseconds()}
	res.ExitCode, res.Signal, res.TimedOut = ending(exit)
	res.Stdout, res.Stderr, res.Truncated, res.Output = w.shown()
	if res.Truncated {
		res.StdoutBytes, res.StderrBytes = w.out.stdout.size(), w.out.stderr.size()
	}
	return res, nil
}

// ending is how a program ended, as results tell it.
func ending(e sandbox.Exit) (code *int, signal string, timedOut bool) {
	if e.Signal != 0 {
		if signal = unix.SignalName(unix.Signal(e.Signal)); signal == "" {
			signal = strconv.Itoa(e.Signal)
		}
	}
	return &e.Code, signal, e.TimedOut
}

// watcher takes the output of a foreground program.
type watcher struct {
	s        *Session
	box      string
	progress func(Progress)
	out      *output

	mu    sync.Mutex // held during progress
	total int64
}

func (s *Session) watch(box string, progress func(Progress)) *watcher {
	return &watcher{s: s, box: box, progress: progress, out: newOutput("", s.r.limits.OutputKept)}
}

// writer is one of the program's streams. What goes to direct, if it is not nil, is not kept.
func (w *watcher) writer(stream Stream, direct io.Writer) io.Writer {
	return &streamWriter{w: w, stream: stream, direct: direct}
}

type streamWriter struct {
	w      *watcher
	stream Stream
	direct io.Writer
}

// Write counts the bytes; an error, which ends the program, says that the budget is used up.
func (sw *streamWriter) Write(p []byte) (int, error) {
	w := sw.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.total += int64(len(p))
	to := sw.direct
	if to == nil {
		to = w.out.stream(sw.stream)
	}
	n, err := to.Write(p)
	if err != nil {
		return n, err
	}
	if w.progress != nil {
		w.progress(Progress{Sandbox: w.box, Stream: sw.stream, Data: p, Total: w.total})
	}
	w.s.r.written.Add(int64(len(p)))
	w.s.ledger.spend(OutputBytes, int64(len(p)))
	if no := w.s.ledger.exhausted(); no != nil && no.Resource == OutputBytes {
		return n, no.err("", nil)
	}
	return n, nil
}

// shown is what a result shows, and the handle to the rest, which is kept if there is any.
func (w *watcher) shown() (stdout, stderr string, truncated bool, handle string) {
	w.out.end()
	limit := w.s.r.limits.OutputShown
	name := func() string { // what is kept has one
		set(&w.out.id, newID(prefixOutput))
		return w.out.id
	}
	stdout, cutOut := w.out.stdout.shown(limit, Stdout, name)
	stderr, cutErr := w.out.stderr.shown(limit, Stderr, name)
	if !cutOut && !cutErr {
		return stdout, stderr, false, ""
	}
	w.s.keepEnded(w.out)
	return stdout, stderr, true, w.out.id
}

// keepEnded keeps an output that is at its end.
func (s *Session) keepEnded(out *output) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outputs.keep(out)
	s.forget(s.outputs.retire(out.id))
}

// forget drops processes whose output was. The caller holds mu.
func (s *Session) forget(ids []string) {
	for _, id := range ids {
		delete(s.processes, id)
	}
}
