package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// processEnv is in the environment of a background process and, unless they clear theirs, of its
// descendants. Signals find them by it.
const processEnv = "AETHER_PROCESS"

// maxStdin is how many bytes a background process may be behind in reading its standard input.
const maxStdin = 1 << 20

// process is one in the background.
type process struct {
	id      string
	b       *box
	command string
	out     *output
	stdin   *feed
	screen  *screen // nil without a terminal
	started time.Time
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed when it has ended

	mu     sync.Mutex
	ended  time.Time
	exit   *sandbox.Exit
	killed bool // by Signal
	err    *Error
}

// errKilled is the cause of a process's context when it is sent SIGKILL.
var errKilled = errors.New("killed")

func (s *Session) runBackground(ctx context.Context, c *call, req RunRequest) (res RunResult, err error) {
	start := time.Now()
	b, done, err := s.target(ctx, c, req.Sandbox, req.Ephemeral)
	if err != nil {
		return res, err
	}
	p, err := s.startProcess(ctx, c.op, b, req)
	if err != nil {
		done(&err)
		return res, err
	}
	c.note("process", p.id)
	return RunResult{Sandbox: b.id, Ephemeral: b.ephemeral, Process: p.id, DurationMS: time.Since(start).Milliseconds()}, nil
}

// startProcess starts one that lives until it ends, its sandbox does, or it is killed.
func (s *Session) startProcess(ctx context.Context, op string, b *box, req RunRequest) (*process, error) {
	if err := s.affordable(op); err != nil {
		return nil, err
	}
	life, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	// The sandbox may have to be let go on first: that is the caller's time.
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	u, err := b.enter(life, forBackground)
	if !stop() && err == nil { // the caller gave up
		u.end()
		err = context.Cause(ctx)
	}
	if err != nil {
		cancel(nil)
		return nil, b.reason(ctx, err)
	}
	p := &process{
		id: newID(prefixProcess), b: b, command: clip(req.command(), 256), stdin: newFeed(req.Input),
		started: time.Now(), cancel: cancel, done: make(chan struct{}),
	}
	if req.Terminal != nil {
		p.screen = newScreen(req.Terminal.sandbox().Size)
	}
	p.out = newOutput(p.id, s.r.limits.OutputKept)
	s.mu.Lock()
	if s.closed != nil {
		s.mu.Unlock()
		u.end()
		cancel(nil)
		return nil, s.closed
	}
	s.processes[p.id] = p
	s.outputs.keep(p.out)
	s.tasks.Add(1) // Close waits after it has set closed
	s.mu.Unlock()
	s.tell(Event{Type: EventProcessStarted, Sandbox: b.id, Process: p.id})
	go func() {
		defer s.tasks.Done()
		p.run(u, req)
	}()
	return p, nil
}

func (p *process) run(u *use, req RunRequest) {
	b, s := p.b, p.b.s
	cmd := req.cmd()
	cmd.Env = append(slices.Clone(cmd.Env), processEnv+"="+p.id)
	if p.screen != nil {
		cmd.Terminal.Resize = p.screen.changes
	}
	cmd.Stdin = p.stdin
	cmd.Stdout, cmd.Stderr = &processWriter{p, p.out.stdout}, &processWriter{p, p.out.stderr}
	exit, err := u.sb.Exec(u.ctx, cmd)
	p.stdin.close()
	killed := err != nil && errors.Is(context.Cause(u.ctx), errKilled)
	var failed *Error
	switch {
	case killed && b.life.Err() == nil && moreThan(err, errKilled, context.Canceled):
		killed = false
		failed = refuse(CodeInternal, "signal", "kill the sandbox", "the process may still run: %s", s.r.scrub(err.Error()))
	case err != nil && !killed:
		failed = s.r.typed("run", b.id, b.reason(u.ctx, err))
	}
	p.mu.Lock()
	p.ended, p.killed, p.err = time.Now(), killed, failed
	if err == nil {
		p.exit = &exit
	}
	p.mu.Unlock()
	p.cancel(nil)
	p.out.end()
	u.end()
	close(p.done)
	s.mu.Lock()
	s.forget(s.outputs.retire(p.id))
	s.mu.Unlock()
	s.tell(Event{Type: EventProcessEnded, Sandbox: b.id, Process: p.id})
	info := p.info()
	e := AuditEntry{Time: time.Now(), Tenant: s.tenant.ID, Session: s.id, Op: "process end", Sandbox: b.id,
		What: map[string]string{"process": p.id}, Result: "ok", DurationMS: info.DurationMS}
	if info.Error != nil {
		e.Result, e.Cause = string(info.Error.Code), clip(info.Error.Cause, 256)
	}
	s.r.audit.append(e)
	if b.ephemeral {
		if err := b.kill(ended()); err != nil {
			s.r.log.Warn("could not remove the sandbox of a process that has ended", "sandbox", b.id, "error", err)
		}
	}
}

// moreThan tells whether an error says something else besides any of those given.
func moreThan(err error, known ...error) bool {
	if slices.Contains(known, err) {
		return false
	}
	switch e := err.(type) { //nolint:errorlint // it is the chain itself that is looked through
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), func(part error) bool { return moreThan(part, known...) })
	case interface{ Unwrap() error }:
		return e.Unwrap() == nil || moreThan(e.Unwrap(), known...)
	}
	return true
}

// processWriter takes the output of a background process. When its budget is used up the reaper
// pauses the sandbox; where that cannot be, the process is ended here.
type processWriter struct {
	p   *process
	buf *buffer
}

func (w *processWriter) Write(data []byte) (int, error) {
	n, _ := w.buf.Write(data)
	l := w.p.b.s.ledger
	w.p.b.s.r.written.Add(int64(n))
	l.spend(OutputBytes, int64(n))
	if no := l.exhausted(); no != nil && no.Resource == OutputBytes {
		w.p.b.mu.Lock()
		_, can := w.p.b.sb.(sandbox.Pauser)
		w.p.b.mu.Unlock()
		if !can {
			return n, no.err("", nil)
		}
	}
	return n, nil
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) info() ProcessInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := ProcessInfo{
		ID: p.id, Sandbox: p.b.id, Command: p.command, Running: p.ended.IsZero(), Started: p.started.UTC(),
		StdoutBytes: p.out.stdout.size(), StderrBytes: p.out.stderr.size(), Error: p.err,
	}
	if p.screen != nil {
		size := p.screen.now()
		i.Terminal = &size
	}
	end := p.ended
	if i.Running {
		end = time.Now()
	}
	i.DurationMS = end.Sub(p.started).Milliseconds()
	switch {
	case p.killed:
		code := -1
		i.ExitCode, i.Signal = &code, "SIGKILL"
	case p.exit != nil:
		i.ExitCode, i.Signal, i.TimedOut = ending(*p.exit)
	}
	return i
}

func (s *Session) process(op, id string) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.processes[id]; p != nil {
		return p, nil
	}
	return nil, refuse(CodeNotFound, op, "list shows the processes of this session", "there is no process %q in this session", clip(id, 64))
}

func (s *Session) runningIn(box string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, p := range s.processes {
		if p.b.id == box && p.running() {
			n++
		}
	}
	return n
}

func (s *Session) processInfos(box string) []ProcessInfo {
	s.mu.Lock()
	var list []*process
	for _, p := range s.processes {
		if box == "" || p.b.id == box {
			list = append(list, p)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b *process) int {
		if c := a.started.Compare(b.started); c != 0 {
			return c
		}
		return strings.Compare(a.id, b.id)
	})
	infos := make([]ProcessInfo, 0, len(list))
	for _, p := range list {
		infos = append(infos, p.info())
	}
	return infos
}

// Processes lists the background processes of a sandbox, or of all if sandboxID is empty: those that
// run, and those that have ended while their output is kept.
func (s *Session) Processes(ctx context.Context, sandboxID string) (list []ProcessInfo, err error) {
	_, c, err := s.call(ctx, "processes", sandboxID, CanRead)
	c.quiet = true
	defer c.end(&err)
	if err != nil {
		return nil, err
	}
	list = s.processInfos(sandboxID)
	if sandboxID != "" && len(list) == 0 {
		_, err = s.box(c.op, sandboxID)
	}
	return list, err
}

// Poll tells how a process is, and what it wrote since the offsets given. With Wait it waits for
// more, or the end, if there is none yet.
func (s *Session) Poll(ctx context.Context, req PollRequest) (res PollResult, err error) {
	ctx, c, err := s.call(ctx, "poll", "", CanRead)
	c.quiet = true
	defer c.end(&err)
	if err != nil {
		return res, err
	}
	p, err := s.process(c.op, req.Process)
	if err != nil {
		return res, err
	}
	if req.Stdout < 0 || req.Stderr < 0 || req.Wait < 0 {
		return res, refuse(CodeInvalid, c.op, "use the offsets of the last poll, or 0", "an offset or the time to wait is negative")
	}
	if req.Wait > 0 {
		if err := p.wait(ctx, req); err != nil {
			return res, err
		}
	}
	size := s.r.shownSize(req.Max)
	res.ProcessInfo = p.info()
	res.Stdout, res.Stderr = p.out.stdout.chunk(req.Stdout, size), p.out.stderr.chunk(req.Stderr, size)
	return res, nil
}

func (p *process) wait(ctx context.Context, req PollRequest) error {
	w := elsewhere(ctx)
	w.start()
	defer w.stop()
	out, errs := p.out.stdout.after(req.Stdout), p.out.stderr.after(req.Stderr)
	if p.running() && out != nil && errs != nil {
		timer := time.NewTimer(req.Wait)
		defer timer.Stop()
		select {
		case <-out:
		case <-errs:
		case <-p.done:
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// WriteStdin feeds a process.
func (s *Session) WriteStdin(ctx context.Context, req StdinRequest) (info ProcessInfo, err error) {
	_, c, err := s.call(ctx, "write stdin", "", CanExec)
	c.note("process", req.Process)
	defer c.end(&err)
	if err != nil {
		return info, err
	}
	p, err := s.process(c.op, req.Process)
	if err != nil {
		return info, err
	}
	c.sandbox = p.b.id
	if err := p.stdin.add(req.Data, req.Close); err != nil {
		return info, refuse(CodeConflict, c.op, "poll the process to see how it is", "%v", err)
	}
	return p.info(), nil
}

// feed is the standard input of a background process.
type feed struct {
	mu     sync.Mutex
	data   []byte
	closed bool          // nothing follows
	more   chan struct{} // closed when something arrives; nil if nobody waits
}

var errFeedClosed = errors.New("its standard input is closed")

func newFeed(first string) *feed { return &feed{data: []byte(first)} }

func (f *feed) add(data string, last bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed && data == "":
		return nil
	case f.closed:
		return errFeedClosed
	case len(f.data)+len(data) > maxStdin:
		return fmt.Errorf("it has not read %d bytes yet, and at most %d are kept for it", len(f.data), maxStdin)
	}
	f.data = append(f.data, data...)
	f.closed = last
	f.wake()
	return nil
}

func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.wake()
}

func (f *feed) wake() {
	if f.more != nil {
		close(f.more)
		f.more = nil
	}
}

// Read is that of the program's side. It ends when close is called, whoever calls it.
func (f *feed) Read(p []byte) (int, error) {
	for {
		f.mu.Lock()
		if len(f.data) > 0 {
			n := copy(p, f.data)
			f.data = f.data[n:]
			f.mu.Unlock()
			return n, nil
		}
		if f.closed {
			f.mu.Unlock()
			return 0, io.EOF
		}
		if f.more == nil {
			f.more = make(chan struct{})
		}
		more := f.more
		f.mu.Unlock()
		<-more
	}
}
