package mcp

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// lastCalls is how long calls in progress may take to end after the client has closed its side. What runs
// longer is cancelled.
const lastCalls = 5 * time.Second

// lastAnswers is how long cancelled calls may take to end, and their client to read that.
const lastAnswers = 5 * time.Second

var errUnread = errors.New("mcp: the client has closed its side, and not all was answered: it does not read, or what was cancelled does not end")

// ServeStdio serves one client that writes requests to in and reads answers from out, a line each. It
// returns nil when the client has closed in, and ctx's error when ctx ends; what was going on is then over. For a
// client that does not read it waits some seconds, and leaves a Write to out behind. A line that is no JSON is answered with an
// error, and nothing else comes of it.
// The server serves nobody else.
func ServeStdio(ctx context.Context, server *sdk.Server, in io.Reader, out io.Writer) error {
	server.AddReceivingMiddleware(endsWith(ctx))
	whole := &wholeWriter{to: out}
	lines := newJSONLines(in, func() error {
		_, err := io.WriteString(whole, parseError)
		return err
	})
	t := &drained{over: ctx.Done(), ended: make(chan struct{}), under: &sdk.IOTransport{Reader: io.NopCloser(lines), Writer: unclosed{whole}}}
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, t) }()
	var err error
	select {
	case err = <-done:
	case <-t.ended:
		err = atLast(done)
	case <-ctx.Done():
		err = atLast(done)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// atLast waits for the server's end, though not without end for a client that does not read.
func atLast(done <-chan error) error {
	patience := time.NewTimer(lastAnswers)
	defer patience.Stop()
	select {
	case err := <-done:
		return err
	case <-patience.C:
		return errUnread
	}
}

// endsWith ends every call with ctx. The SDK would wait for them.
func endsWith(ctx context.Context) sdk.Middleware {
	return func(next sdk.MethodHandler) sdk.MethodHandler {
		return func(callCtx context.Context, method string, req sdk.Request) (sdk.Result, error) {
			callCtx, cancel := context.WithCancelCause(callCtx)
			defer cancel(nil)
			defer context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })()
			return next(callCtx, method, req)
		}
	}
}

// unclosed leaves it to the process's end to close its standard output.
type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

// drained is a transport that tells of the end of input only when the requests before it are answered:
// the SDK cancels what is in progress when input ends, and "printf ... | aether mcp" would get nothing.
type drained struct {
	under sdk.Transport
	over  <-chan struct{} // nobody waits any more
	ended chan struct{}   // closed when no request will follow, and those before it are answered or given up
}

func (t *drained) Connect(ctx context.Context) (sdk.Connection, error) {
	c, err := t.under.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &drainedConn{Connection: c, over: t.over, end: sync.OnceFunc(func() { close(t.ended) }), open: map[jsonrpc.ID]bool{}, changed: make(chan struct{}, 1)}, nil
}

type drainedConn struct {
	sdk.Connection
	over <-chan struct{}
	end  func() // that no request will follow

	mu      sync.Mutex
	open    map[jsonrpc.ID]bool // requests that have no answer yet
	changed chan struct{}
}

func (c *drainedConn) Read(ctx context.Context) (jsonrpc.Message, error) {
	msg, err := c.Connection.Read(ctx)
	if err != nil {
		c.wait()
		c.end()
		return nil, err
	}
	if req, ok := msg.(*jsonrpc.Request); ok && req.IsCall() {
		c.mu.Lock()
		c.open[req.ID] = true
		c.mu.Unlock()
	}
	return msg, nil
}

func (c *drainedConn) Write(ctx context.Context, msg jsonrpc.Message) error {
	err := c.Connection.Write(ctx, msg)
	if res, ok := msg.(*jsonrpc.Response); ok {
		c.mu.Lock()
		delete(c.open, res.ID)
		c.mu.Unlock()
		select {
		case c.changed <- struct{}{}:
		default:
		}
	}
	return err
}

// wait returns when all requests are answered, after lastCalls, or when the server ends.
func (c *drainedConn) wait() {
	timeout := time.NewTimer(lastCalls)
	defer timeout.Stop()
	for {
		c.mu.Lock()
		n := len(c.open)
		c.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-c.changed:
		case <-timeout.C:
			return
		case <-c.over:
			return
		}
	}
}
