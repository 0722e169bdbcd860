package rest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/aethervm/aether/internal/runtime"
)

// execRequestSize bounds the part of an exec that says what to run, in bytes.
const execRequestSize = 1 << 20

// lastInput is how long a client has to take the answer, and to end the input of a program that has ended.
const lastInput = time.Second

// ExecResult is how a program ended whose output went to events.
type ExecResult struct {
	Sandbox    string `json:"sandbox"`
	ExitCode   *int   `json:"exit_code,omitempty" doc:"-1 if a signal ended it"`
	Signal     string `json:"signal,omitempty"`
	TimedOut   bool   `json:"timed_out,omitempty"`
	DurationMS int64  `json:"duration_ms"`
}

func (s *server) registerExec(tags []string) {
	op := huma.Operation{OperationID: "exec", Method: http.MethodPost, Path: "/v1/sandboxes/{sandbox}/exec", Tags: tags,
		Summary: "Run a program in a sandbox with streams in both directions",
		Description: "The body has a part \"request\", as that of run, and then, if the program is to have any standard input, a part \"stdin\", which is passed on as it comes. " +
			"The answer begins before the body has ended. All output comes as events and nothing of it is dropped: the program waits for the client. " +
			"When the client goes, the program is killed, with all that it has started.",
		Metadata: map[string]any{streams: true},
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"multipart/form-data": {
			Schema: &huma.Schema{Type: huma.TypeObject, Required: []string{"request"}, Properties: map[string]*huma.Schema{
				"request": schema[Run](s),
				"stdin":   {Type: huma.TypeString, Format: "binary"},
			}},
			Encoding: map[string]*huma.Encoding{"request": {ContentType: "application/json"}, "stdin": {ContentType: "application/octet-stream"}},
		}}},
		Responses: ok(http.StatusOK, map[string]*huma.MediaType{eventStream: eventContent(
			"stdout and stderr, with text and encoding (base64, or none for UTF-8), then result (sandbox, exit_code, signal, timed_out, duration_ms) or error, a problem")}),
	}
	s.stream(op, func(ctx context.Context, sandboxID string, of Of, r *http.Request, w http.ResponseWriter) error {
		session, err := s.find(ctx, of, sandboxID)
		if err != nil {
			return err
		}
		req, stdin, err := execRequest(r)
		if err != nil {
			return err
		}
		rc := http.NewResponseController(w)
		// The program may write before its input has ended. HTTP/2 is so anyhow, and answers that it cannot be told.
		if err := rc.EnableFullDuplex(); err != nil && r.ProtoMajor < 2 {
			return err
		}
		ctx, over := endable(ctx, w)
		defer over()
		ctx, cancel := context.WithCancel(ctx)
		closeAfter(r, w)
		e := newEvents(w)
		defer e.beat(cancel)()
		input := newClientInput(ctx, stdin, cancel)
		defer func() {
			cancel()
			// A client that is still sending when the connection is closed hears of that, and not of the answer: he is given a
			// moment to read it, and to end his input. He may be sending nothing.
			if rc.SetReadDeadline(time.Now().Add(lastInput)) == nil {
				<-input.done
				_, _ = io.Copy(io.Discard, r.Body)
			}
		}()
		req.Sandbox, req.Stdin = sandboxID, input
		req.Stdout, req.Stderr = streamWriter{e, runtime.Stdout}, streamWriter{e, runtime.Stderr}
		res, err := session.Run(ctx, req)
		e.end(ExecResult{res.Sandbox, res.ExitCode, res.Signal, res.TimedOut, res.DurationMS}, err)
		return nil
	})
}

// execRequest reads the first part of the body; stdin is the second, or empty.
func execRequest(r *http.Request) (req runtime.RunRequest, stdin io.Reader, err error) {
	bad := func(what string, err error) error {
		return refuse(runtime.CodeInvalid, "exec", "send multipart/form-data: a part \"request\" with JSON, then a part \"stdin\" if there is any", "%s: %v", what, err)
	}
	parts, err := r.MultipartReader()
	if err != nil {
		return req, nil, bad("the body", err)
	}
	first, err := parts.NextPart()
	if err != nil {
		return req, nil, bad("the first part", err)
	}
	if first.FormName() != "request" {
		return req, nil, bad("the first part", errors.New("it is not request"))
	}
	var run Run
	dec := json.NewDecoder(io.LimitReader(first, execRequestSize))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&run); err != nil {
		return req, nil, bad("the request", err)
	}
	if run.Background || run.Input != "" || run.TimeoutS < 0 || run.TimeoutS > 3e9 {
		return req, nil, bad("the request", errors.New("it has a background or an input, or a time-out that is none"))
	}
	return run.runtime(), &stdinPart{parts: parts}, nil
}

// stdinPart is the second part of a body. It is looked for when it is first read: a client may send it late.
type stdinPart struct {
	parts *multipart.Reader
	part  *multipart.Part
}

func (s *stdinPart) Read(p []byte) (int, error) {
	if s.part == nil {
		part, err := s.parts.NextPart()
		if err != nil { // io.EOF if there is none
			return 0, err
		}
		s.part = part
	}
	return s.part.Read(p)
}

const (
	// stdinChunk and stdinChunks bound what is held of a standard input that the program has not read yet.
	stdinChunk  = 32 << 10
	stdinChunks = 32
)

// clientInput passes on what a client sends. It reads ahead, so that it is seen when the client goes, also if the program
// does not read.
type clientInput struct {
	ctx    context.Context
	chunks chan []byte // closed at the end
	rest   []byte
	done   chan struct{} // closed when nothing is read from the client any more
}

// newClientInput begins to read r, until its end or that of ctx. gone is called if r ends before the client said that
// this is all.
func newClientInput(ctx context.Context, r io.Reader, gone func()) *clientInput {
	c := &clientInput{ctx: ctx, chunks: make(chan []byte, stdinChunks), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer close(c.chunks)
		for {
			buf := make([]byte, stdinChunk)
			n, err := r.Read(buf)
			if n > 0 {
				select {
				case c.chunks <- buf[:n]:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					gone()
				}
				return
			}
		}
	}()
	return c
}

// Read is the program's.
func (c *clientInput) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		select {
		case chunk, ok := <-c.chunks:
			if !ok {
				return 0, io.EOF
			}
			c.rest = chunk
		case <-c.ctx.Done():
			return 0, context.Cause(c.ctx)
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// closeAfter has the connection closed after the answer, unless others share it: what is left of the body is unknown.
func closeAfter(r *http.Request, w http.ResponseWriter) {
	if r.ProtoMajor < 2 {
		w.Header().Set("Connection", "close")
	}
}

// stream adds an operation of a sandbox that reads its body and writes its answer as it goes.
func (s *server) stream(op huma.Operation, f func(ctx context.Context, sandboxID string, of Of, r *http.Request, w http.ResponseWriter) error) {
	body := op.RequestBody
	op.RequestBody = nil // or the library would read it
	register(s, op, func(ctx context.Context, in *OneSandbox) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			if err := f(ctx, in.Sandbox, in.Of, r, w); err != nil {
				// What is left of the body is not waited for.
				closeAfter(r, w)
				_ = http.NewResponseController(w).SetReadDeadline(time.Now()) // where there is none, nothing waits
				problem(err).write(w)
			}
		}}, nil
	})
	item := s.api.OpenAPI().Paths[op.Path]
	for _, registered := range []*huma.Operation{item.Post, item.Put} {
		if registered != nil && registered.OperationID == op.OperationID && strings.EqualFold(registered.Method, op.Method) {
			registered.RequestBody = body
		}
	}
}
