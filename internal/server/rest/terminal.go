package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/aethervm/aether/internal/repeat"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/access"
	"github.com/aethervm/aether/sandbox"
)

// TerminalProtocol is the subprotocol of the websockets that lead to a terminal.
const TerminalProtocol = "aether.terminal.1"

// Terminal is one that a program is to have.
type Terminal struct {
	Rows uint16 `json:"rows,omitempty" maximum:"10000" doc:"24 if rows and columns are left out"`
	Cols uint16 `json:"cols,omitempty" maximum:"10000" doc:"80 if rows and columns are left out"`
	Term string `json:"term,omitempty" maxLength:"64" doc:"the value of TERM; xterm if it is left out"`
}

func (t *Terminal) runtime() *runtime.Terminal {
	if t == nil {
		return nil
	}
	return &runtime.Terminal{TerminalSize: sandbox.TerminalSize{Rows: t.Rows, Cols: t.Cols}, Term: t.Term}
}

// TerminalMessage is a text message on the way to the server. What is typed comes as binary messages.
type TerminalMessage struct {
	Type string `json:"type" enum:"resize,end" doc:"end types the end of the input of a program that is run"`
	Rows uint16 `json:"rows,omitempty"`
	Cols uint16 `json:"cols,omitempty"`
}

// TerminalEvent is a text message on the way to the client. What is written to the terminal comes as binary messages.
type TerminalEvent struct {
	Type    string      `json:"type" enum:"result,skipped,error"`
	Result  *ExecResult `json:"result,omitempty" doc:"how a program has ended"`
	Process *Process    `json:"process,omitempty" doc:"how a process has ended"`
	Bytes   int64       `json:"bytes,omitempty" doc:"that are not kept, and were skipped"`
	Problem *Problem    `json:"problem,omitempty"`
}

const (
	// terminalMessage bounds a message, in bytes.
	terminalMessage = 64 << 10
	// typedMessages is how many are held that a program has not read yet.
	typedMessages = 4
	// firstMessage is how long a client may take to say what to run.
	firstMessage = 30 * time.Second
)

const terminalDescription = "A websocket, of the subprotocol " + TerminalProtocol + ". Binary messages are what is typed and what is written; text messages are JSON: " +
	"from the client TerminalMessage, from the server TerminalEvent, the last of which is a result or an error. A message has at most 64 KiB. "

func (s *server) registerTerminals(tags []string) {
	upgrade := map[string]*huma.Response{"101": {Description: "the websocket"}}
	schema[TerminalMessage](s)
	schema[TerminalEvent](s)
	register(s, huma.Operation{OperationID: "open-terminal", Method: http.MethodGet, Path: "/v1/sandboxes/{sandbox}/terminal", Tags: tags,
		Summary: "Run a program on a terminal, over a websocket", Responses: upgrade,
		Description: terminalDescription + "The first message is a text, the program to run as for run, with its terminal. Nothing of the output is dropped: the program waits for the client. " +
			"When the client goes, the program is killed, with all that it has started."},
		func(ctx context.Context, in *OneSandbox) (*huma.StreamResponse, error) {
			session, err := s.find(ctx, in.Of, in.Sandbox)
			if err == nil {
				err = mayExec(ctx, session, in.Sandbox, "")
			}
			if err != nil {
				return nil, err
			}
			return s.socket(ctx, func(ctx context.Context, c *terminalConn) { c.run(ctx, session, in.Sandbox) }), nil
		})

	type attach struct {
		OneProcess
		Stdout int64 `query:"stdout" doc:"where to begin, in bytes; negative counts from the end"`
	}
	register(s, huma.Operation{OperationID: "attach-terminal", Method: http.MethodGet, Path: "/v1/processes/{process}/terminal", Tags: tags,
		Summary: "The terminal of a background process, over a websocket", Responses: upgrade,
		Description: terminalDescription + "When the client goes, the process goes on."},
		func(ctx context.Context, in *attach) (*huma.StreamResponse, error) {
			session, err := s.find(ctx, in.Of, in.Process)
			if err == nil {
				err = mayExec(ctx, session, "", in.Process)
			}
			if err != nil {
				return nil, err
			}
			return s.socket(ctx, func(ctx context.Context, c *terminalConn) { c.attach(ctx, session, in.Process, in.Stdout) }), nil
		})

	type resize struct {
		OneProcess
		Body struct {
			Rows uint16 `json:"rows" minimum:"1" maximum:"10000"`
			Cols uint16 `json:"cols" minimum:"1" maximum:"10000"`
		} `nameHint:"Resize"`
	}
	type one struct{ Body Process }
	register(s, huma.Operation{OperationID: "resize-process", Method: http.MethodPost, Path: "/v1/processes/{process}/resize", Tags: tags,
		Summary: "Give the terminal of a process another size"},
		func(ctx context.Context, in *resize) (*one, error) {
			session, err := s.find(ctx, in.Of, in.Process)
			if err != nil {
				return nil, err
			}
			info, err := session.Resize(ctx, runtime.ResizeRequest{Process: in.Process, TerminalSize: sandbox.TerminalSize{Rows: in.Body.Rows, Cols: in.Body.Cols}})
			return &one{Process{info, session.ID()}}, err
		})
}

// mayExec refuses who may only look: a websocket begins with a GET, whatever it is for.
func mayExec(ctx context.Context, session *runtime.Session, sandboxID, processID string) error {
	t, err := tenant(ctx)
	if err == nil && !slices.Contains(t.Capabilities, runtime.CanExec) {
		err = session.DenyTerminal(ctx, sandboxID, processID)
	}
	return err
}

// socket makes the connection a websocket, for serve, which ends it.
func (s *server) socket(ctx context.Context, serve func(context.Context, *terminalConn)) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		// It refuses a page of another origin, and what is no websocket, and answers that itself.
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{TerminalProtocol}})
		if err != nil {
			return
		}
		conn.SetReadLimit(terminalMessage)
		ctx, cancel := context.WithCancel(ctx)
		c := &terminalConn{conn: conn, cancel: cancel, sizes: make(chan sandbox.TerminalSize, 1), typed: make(chan []byte, typedMessages), done: make(chan struct{})}
		defer func() {
			cancel()
			_ = conn.CloseNow()
			if c.reading {
				<-c.done
			}
		}()
		serve(ctx, c)
	}}
}

// terminalConn is the websocket of a terminal.
type terminalConn struct {
	conn   *websocket.Conn
	cancel context.CancelFunc // when the client has gone
	sizes  chan sandbox.TerminalSize
	typed  chan []byte
	done   chan struct{} // closed when nothing is read any more
	// full tells that what was typed is not taken, so that nothing is read; writing, how many writes are going on.
	full    atomic.Bool
	writing atomic.Int32
	reading bool

	rest []byte // of Read
	ctx  context.Context
}

func (c *terminalConn) run(ctx context.Context, session *runtime.Session, sandboxID string) {
	req, err := c.request(ctx)
	if err != nil {
		c.end(ctx, TerminalEvent{}, err)
		return
	}
	defer c.start(ctx)()
	// When the runtime ends the call, it does not wait for a client that takes nothing.
	out, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	ended := runtime.OnEnd(ctx, func() { time.AfterFunc(lastWrite, giveUp) })
	req.Sandbox, req.Stdin, req.Stdout, req.Terminal.Resize = sandboxID, c, terminalOutput{out, c}, c.sizes
	res, err := session.Run(ended, req)
	if why := access.Check(ctx); err != nil && why != nil {
		err = why
	}
	c.end(out, TerminalEvent{Result: &ExecResult{res.Sandbox, res.ExitCode, res.Signal, res.TimedOut, res.DurationMS}}, err)
}

func (c *terminalConn) attach(ctx context.Context, session *runtime.Session, process string, from int64) {
	defer c.start(ctx)()
	info, err := session.Attach(ctx, runtime.AttachRequest{Process: process, From: from, Input: c, Output: terminalOutput{ctx, c}, Resize: c.sizes,
		Skipped: func(n int64) { _ = c.send(ctx, TerminalEvent{Type: "skipped", Bytes: n}) }})
	if why := access.Check(ctx); err != nil && why != nil {
		err = why
	}
	c.end(ctx, TerminalEvent{Process: &Process{info, session.ID()}}, err)
}

// request is the first message.
func (c *terminalConn) request(ctx context.Context) (runtime.RunRequest, error) {
	ctx, cancel := context.WithTimeout(ctx, firstMessage)
	defer cancel()
	bad := func(err error) error {
		return refuse(runtime.CodeInvalid, "terminal", "send a text message with JSON: the program to run", "the first message: %v", err)
	}
	kind, data, err := c.conn.Read(ctx)
	if err != nil {
		return runtime.RunRequest{}, bad(err)
	}
	if kind != websocket.MessageText {
		return runtime.RunRequest{}, bad(errors.New("it is no text"))
	}
	var run Run
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&run); err != nil {
		return runtime.RunRequest{}, bad(err)
	}
	if run.Background || run.Input != "" || run.TimeoutS < 0 || run.TimeoutS > 3e9 {
		return runtime.RunRequest{}, bad(errors.New("it has a background or an input, or a time-out that is none"))
	}
	if run.Terminal == nil {
		run.Terminal = &Terminal{}
	}
	return run.runtime(), nil
}

// start reads what the client sends. It cancels the context when the client has gone, which is seen by that, or when its token
// was replaced, until the function that it returns is called. A client that is slow is waited for.
func (c *terminalConn) start(ctx context.Context) (stop func()) {
	c.ctx, c.reading = ctx, true
	go c.read(ctx)
	return repeat.Every(heartbeat, func() bool {
		there := access.Check(ctx) == nil && !c.left(ctx)
		if !there {
			c.cancel()
		}
		return there
	})
}

// left tells whether a client has gone of which nothing is read now, since what it has typed is not taken. One that is
// there has not answered in time, which says nothing.
func (c *terminalConn) left(ctx context.Context) bool {
	if !c.full.Load() || c.writing.Load() > 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err := c.conn.Ping(ctx)
	return err != nil && !errors.Is(err, context.DeadlineExceeded)
}

// read takes the client's messages until it goes.
func (c *terminalConn) read(ctx context.Context) {
	defer close(c.done)
	defer c.cancel()
	for {
		kind, data, err := c.conn.Read(ctx)
		if err != nil {
			return
		}
		if kind == websocket.MessageText {
			if data, err = c.message(data); err != nil {
				_ = c.conn.Close(websocket.StatusPolicyViolation, err.Error())
				return
			}
			if data == nil {
				continue
			}
		} else if len(data) == 0 {
			continue
		}
		c.full.Store(true)
		select {
		case c.typed <- data:
		case <-ctx.Done():
			return
		}
		c.full.Store(false)
	}
}

// message takes a text message. It returns an empty slice for the end of the input, which Read makes of it.
func (c *terminalConn) message(data []byte) ([]byte, error) {
	var m TerminalMessage
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, errors.New("a text message that is no JSON")
	}
	switch size := (sandbox.TerminalSize{Rows: m.Rows, Cols: m.Cols}); {
	case m.Type == "end":
		return []byte{}, nil
	case m.Type == "resize" && size.Valid():
		runtime.NewestSize(c.sizes, size)
		return nil, nil
	case m.Type == "resize":
		return nil, errors.New("a size that a terminal cannot have")
	}
	return nil, fmt.Errorf("a message of type %.32q", m.Type)
}

// Read is the program's.
func (c *terminalConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		select {
		case data := <-c.typed:
			if len(data) == 0 {
				return 0, io.EOF
			}
			c.rest = data
		case <-c.ctx.Done():
			return 0, context.Cause(c.ctx)
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *terminalConn) send(ctx context.Context, e TerminalEvent) error {
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, heartbeat)
	defer cancel()
	return c.conn.Write(ctx, websocket.MessageText, raw)
}

// end sends the last message.
func (c *terminalConn) end(ctx context.Context, e TerminalEvent, err error) {
	e.Type = "result"
	if err != nil {
		e = TerminalEvent{Type: "error", Problem: problem(err)}
	}
	if c.send(context.WithoutCancel(ctx), e) == nil { // else the client is gone
		_ = c.conn.Close(websocket.StatusNormalClosure, "")
	}
}

// terminalOutput sends what is written to it.
type terminalOutput struct {
	ctx context.Context
	c   *terminalConn
}

func (o terminalOutput) Write(p []byte) (int, error) {
	o.c.writing.Add(1)
	defer o.c.writing.Add(-1)
	written := 0
	for len(p) > 0 {
		n := min(len(p), terminalMessage)
		if err := o.c.conn.Write(o.ctx, websocket.MessageBinary, p[:n]); err != nil {
			return written, err
		}
		written, p = written+n, p[n:]
	}
	return written, nil
}
