package runtime

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/aethervm/aether/internal/head"
	"github.com/aethervm/aether/sandbox"
)

// A kept interpreter is a process of the sandbox that listens on a Unix socket there. A call passes a request to the
// socket: directly where the system can reach it, else by a short program that is run for that. So nothing of it is on the
// host, and what it holds lives through a pause, a fork or a snapshot as everything in the sandbox does.
var (
	//go:embed interp/python.py
	pythonServer string
	//go:embed interp/python_client.py
	pythonClient string
	//go:embed interp/node.js
	nodeServer string
	//go:embed interp/node_client.js
	nodeClient string
)

// interpreterDir is where the sockets are in a sandbox. /tmp can be written to in every one.
const interpreterDir = "/tmp/.aether"

const (
	// startTimeout bounds the start of an interpreter.
	startTimeout = time.Minute
	// answerGrace is how much longer than its time-out code is waited for: the interpreter interrupts
	// it, and two seconds later ends itself.
	answerGrace = 15 * time.Second
	// noInterpreter is the client's exit code when nobody listens.
	noInterpreter = 97
	// maxAnswer bounds a line of an interpreter: a piece of output, a value, a traceback.
	maxAnswer = 4 << 20
)

// language is how an interpreter is started and asked.
type language struct {
	start, ask []string // program and arguments; the socket's path follows
}

func (l Language) def(op string) (language, error) {
	switch l {
	case Python:
		return language{
			start: []string{"python3", "-c", pythonServer},
			ask:   []string{"python3", "-I", "-S", "-c", pythonClient},
		}, nil
	case Node:
		return language{
			start: []string{"node", "-e", nodeServer},
			ask:   []string{"node", "-e", nodeClient},
		}, nil
	}
	return language{}, refuse(CodeInvalid, op, "use python or node, or run another one's program", "there is no interpreter for %q", clip(string(l), 32))
}

func (l Language) socket() string { return interpreterDir + "/" + string(l) + ".sock" }

// interpreter is one of a box. Its turn is taken by the call that uses it.
type interpreter struct {
	turn chan struct{}
	// begun tells that it was started, here or in the sandbox that this one is a copy of. The one who
	// has the turn changes it.
	begun atomic.Bool
}

func newInterpreter(begun bool) *interpreter {
	in := &interpreter{turn: make(chan struct{}, 1)}
	in.begun.Store(begun)
	return in
}

// Code runs code in an interpreter that is kept in the sandbox: what it defines is there in the next
// call, and in forks. When ctx ends, the code is interrupted.
func (s *Session) Code(ctx context.Context, req CodeRequest) (res CodeResult, err error) {
	set(&req.Language, Python)
	ctx, c, err := s.call(ctx, "code", req.Sandbox, CanExec)
	c.note("language", string(req.Language))
	c.note("code", req.Code)
	defer c.end(&err)
	if err != nil {
		return res, err
	}
	lang, err := req.Language.def(c.op)
	if err != nil {
		return res, err
	}
	if req.Timeout < 0 {
		return res, refuse(CodeInvalid, c.op, "give zero for no limit", "the timeout is negative")
	}
	b, done, err := s.target(ctx, c, req.Sandbox, req.Ephemeral)
	if err != nil {
		return res, err
	}
	defer done(&err)
	u, err := s.enterBox(ctx, c.op, b, forWork)
	if err != nil {
		return res, err
	}
	defer u.end()
	res, err = b.code(u, lang, req)
	return res, b.reason(u.ctx, err)
}

func (b *box) code(u *use, lang language, req CodeRequest) (res CodeResult, err error) {
	b.mu.Lock()
	in := b.interps[req.Language]
	if in == nil {
		in = newInterpreter(false)
		b.interps[req.Language] = in
	}
	generation := b.id + "-" + strconv.Itoa(b.generation)
	b.mu.Unlock()
	select {
	case in.turn <- struct{}{}:
		defer func() { <-in.turn }()
	case <-u.ctx.Done():
		return res, context.Cause(u.ctx)
	}
	request, err := json.Marshal(map[string]any{
		"code": req.Code, "timeout": req.Timeout.Seconds(), "generation": generation, "restart": req.Restart})
	if err != nil {
		return res, fmt.Errorf("encode the code: %w", err)
	}
	request = append(request, '\n')
	start := time.Now()
	w := b.s.watch(b.id, req.Progress)
	lost := ""
	for try := 0; ; try++ {
		if !in.begun.Load() {
			if err := b.startInterpreter(u, lang, req.Language); err != nil {
				return res, err
			}
			in.begun.Store(true)
		}
		answer, err := ask(u, lang, req, request, w)
		if errors.Is(err, errNobody) && try == 0 {
			// It was killed, by the guest's kernel for memory perhaps, or by the code of another call.
			in.begun.Store(false)
			lost = "the interpreter was gone"
			continue
		}
		if err != nil {
			return res, err
		}
		res = CodeResult{Sandbox: b.id, Ephemeral: b.ephemeral, Value: validText(answer.Value), Error: answer.Error,
			Fresh: answer.Fresh, Lost: firstOf(answer.Lost, lost), TimedOut: answer.TimedOut, DurationMS: time.Since(start).Milliseconds()}
		res.Stdout, res.Stderr, res.Truncated, res.Output = w.shown()
		return res, nil
	}
}

// startInterpreter returns when it listens.
func (b *box) startInterpreter(u *use, lang language, name Language) error {
	said := head.New(4 << 10)
	exit, err := u.sb.Exec(u.ctx, sandbox.Cmd{
		Args: append(append([]string{}, lang.start...), name.socket()), Dir: "/",
		Stderr: said, Timeout: startTimeout,
	})
	if errors.Is(err, sandbox.ErrCannotRun) {
		return &Error{Code: CodeUnsupported, Op: "code", Cause: fmt.Sprintf("%s is not in the image", lang.start[0]),
			Remedy: "use an image that has it, or install it with run", Err: err}
	}
	if err != nil {
		return err
	}
	if !exit.Success() {
		return refuse(CodeInternal, "code", "look at the sandbox with run; it may be out of memory or disk",
			"the interpreter did not start (%s): %s", exit, clip(said.String(), 1024))
	}
	return nil
}

// errNobody says that no interpreter listens.
var errNobody = errors.New("no interpreter listens")

// answer is the last line of an interpreter's reply.
type answer struct {
	Done     bool       `json:"done"`
	Value    string     `json:"value"`
	Error    *CodeError `json:"error"`
	Fresh    bool       `json:"fresh"`
	Lost     string     `json:"lost"`
	TimedOut bool       `json:"timed_out"`
}

// ask passes a request to the interpreter and takes its output.
func ask(u *use, lang language, req CodeRequest, request []byte, w *watcher) (answer, error) {
	reply := &replyWriter{stdout: w.writer(Stdout, nil), stderr: w.writer(Stderr, nil)}
	how, err := "its socket was closed", sandbox.ErrUnsupported
	if connector, ok := u.raw.(sandbox.Connector); ok {
		how, err = askDirectly(u, connector, req, request, reply)
	}
	if errors.Is(err, sandbox.ErrUnsupported) {
		how, err = askByProgram(u, lang, req, request, reply)
	}
	switch {
	case err != nil:
		return answer{}, err
	case reply.last == nil:
		return answer{}, refuse(CodeInternal, "code", "try again with restart", "the interpreter gave no answer (%s)", how)
	}
	return *reply.last, nil
}

// askDirectly passes a request to the interpreter's socket, and the answer to reply. It says how that ended.
func askDirectly(u *use, connector sandbox.Connector, req CodeRequest, request []byte, reply *replyWriter) (string, error) {
	ctx, cancel := u.ctx, context.CancelFunc(func() {})
	if req.Timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, req.Timeout+answerGrace)
	}
	defer cancel()
	over := make(chan struct{})
	defer close(over)
	in := io.MultiReader(bytes.NewReader(request), waitReader{over})
	done := u.b.drive(u.ctx, "connect")
	err := connector.Connect(ctx, req.Language.socket(), in, reply)
	done(&err)
	switch {
	case err == nil:
		return "its socket was closed", nil
	case ctx.Err() != nil && u.ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		return "timed out", nil
	case !reply.any && slices.ContainsFunc(noSocket, func(kind error) bool { return errors.Is(err, kind) }):
		return "", errNobody
	}
	return "", err
}

// noSocket are the kinds of errors that say that no interpreter listens, but nothing or something else is at that path.
var noSocket = []error{fs.ErrNotExist, sandbox.ErrRefused, sandbox.ErrInvalid, fs.ErrPermission}

// waitReader ends when over is closed. To the interpreter, the end of its input says that nobody waits for the answer.
type waitReader struct{ over <-chan struct{} }

func (r waitReader) Read([]byte) (int, error) {
	<-r.over
	return 0, io.EOF
}

// askByProgram is askDirectly with a program that is run in the sandbox.
func askByProgram(u *use, lang language, req CodeRequest, request []byte, reply *replyWriter) (string, error) {
	cmd := sandbox.Cmd{
		Args: append(append([]string{}, lang.ask...), req.Language.socket()), Dir: "/",
		Stdin: bytes.NewReader(request), Stdout: reply,
	}
	if req.Timeout > 0 {
		cmd.Timeout = req.Timeout + answerGrace
	}
	exit, err := u.sb.Exec(u.ctx, cmd)
	if err == nil && exit.Code == noInterpreter && !reply.any {
		err = errNobody
	}
	return exit.String(), err
}

// replyWriter takes the lines of an interpreter. The sandbox may have it say anything.
type replyWriter struct {
	stdout, stderr io.Writer

	line []byte
	any  bool
	last *answer
}

func (r *replyWriter) Write(p []byte) (int, error) {
	n := len(p)
	r.any = r.any || n > 0
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		part := p
		if end >= 0 {
			part = p[:end]
		}
		if len(r.line)+len(part) > maxAnswer {
			return 0, garbled("a line is longer than any answer")
		}
		r.line = append(r.line, part...)
		if end < 0 {
			break
		}
		p = p[end+1:]
		if err := r.take(r.line); err != nil {
			return 0, err
		}
		r.line = r.line[:0]
	}
	return n, nil
}

func (r *replyWriter) take(line []byte) error {
	var event struct {
		O, E []byte
		answer
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return garbled(err.Error())
	}
	if r.last != nil {
		return garbled("something follows the answer")
	}
	if len(event.O) > 0 {
		if _, err := r.stdout.Write(event.O); err != nil {
			return err
		}
	}
	if len(event.E) > 0 {
		if _, err := r.stderr.Write(event.E); err != nil {
			return err
		}
	}
	if event.Done {
		r.last = event.answer.valid()
	}
	return nil
}

func (a answer) valid() *answer {
	if a.Error != nil {
		a.Error = &CodeError{Name: validText(a.Error.Name), Message: validText(a.Error.Message), Traceback: validText(a.Error.Traceback)}
	}
	a.Lost = validText(a.Lost)
	return &a
}

func garbled(why string) error {
	return refuse(CodeInternal, "code", "try again with restart", "the interpreter's answer makes no sense: %s", clip(why, 256))
}
