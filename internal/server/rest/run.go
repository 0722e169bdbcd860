package rest

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/aethervm/aether/internal/runtime"
)

// Run is a program to run: shell or args, not both.
type Run struct {
	Shell      string   `json:"shell,omitempty" doc:"a command line for /bin/sh"`
	Args       []string `json:"args,omitempty" nullable:"false" doc:"a program and its arguments, without a shell"`
	Dir        string   `json:"dir,omitempty" doc:"working directory, absolute"`
	Env        []string `json:"env,omitempty" nullable:"false" doc:"KEY=value"`
	TimeoutS   float64  `json:"timeout_s,omitempty" minimum:"0" maximum:"3e9" doc:"kill it when it has run so long; 0 is never"`
	Background bool     `json:"background,omitempty" doc:"answer at once, with the handle of the process"`
	Input      string   `json:"input,omitempty" doc:"standard input; of a background process, the first of it"`
	// Terminal may be left out.
	Terminal *Terminal `json:"terminal,omitempty" doc:"the program gets a terminal; all output is stdout then"`
}

func (r Run) runtime() runtime.RunRequest {
	return runtime.RunRequest{Shell: r.Shell, Args: r.Args, Dir: r.Dir, Env: r.Env, Timeout: duration(r.TimeoutS),
		Background: r.Background, Input: r.Input, Terminal: r.Terminal.runtime()}
}

// RunAlone is a program to run in a sandbox of its own.
type RunAlone struct {
	Run
	Ephemeral Spec `json:"ephemeral,omitzero" doc:"the sandbox, which is killed when the program ends"`
}

// Code is for an interpreter that keeps what former code has defined.
type Code struct {
	Language runtime.Language `json:"language,omitempty" enum:"python,node" doc:"python if it is left out"`
	Code     string           `json:"code"`
	TimeoutS float64          `json:"timeout_s,omitempty" minimum:"0" maximum:"3e9" doc:"interrupt it when it has run so long; 0 is never"`
	Restart  bool             `json:"restart,omitempty" doc:"begin with a fresh interpreter"`
}

func (c Code) runtime() runtime.CodeRequest {
	return runtime.CodeRequest{Language: c.Language, Code: c.Code, Timeout: duration(c.TimeoutS), Restart: c.Restart}
}

// CodeAlone is code for a sandbox of its own.
type CodeAlone struct {
	Code
	Ephemeral Spec `json:"ephemeral,omitzero" doc:"the sandbox, which is killed when the code ends"`
}

// Accepts is the header by which a client asks for events.
type Accepts struct {
	Accept string `header:"Accept" hidden:"true"`
}

func (a Accepts) events() bool { return strings.Contains(a.Accept, eventStream) }

const outputEvents = "stdout and stderr, with text and encoding (base64, or none for UTF-8), then result, as in the JSON answer, or error, a problem"

// answers describes the two forms of an answer.
func answers[T any](s *server) map[string]*huma.Response {
	content := jsonContent[T](s)
	content[eventStream] = eventContent(outputEvents)
	return ok(http.StatusOK, content)
}

// respond runs f and answers with what it returns: as JSON, or as events, with the output before.
func respond[T any](ctx context.Context, a Accepts, f func(ctx context.Context, progress func(runtime.Progress)) (T, error)) (*huma.StreamResponse, error) {
	return respondWith(ctx, a, http.StatusOK, func(ctx context.Context, e *events, gone func()) (T, error) {
		if e == nil {
			return f(ctx, nil)
		}
		return f(ctx, func(p runtime.Progress) {
			if e.output(p.Stream, p.Data) != nil {
				gone()
			}
		})
	})
}

// respondWith runs f and answers with what it returns: as JSON, with a status, or as events. f sends what comes before, and calls
// gone if that fails; its events are nil for JSON.
func respondWith[T any](ctx context.Context, a Accepts, status int, f func(ctx context.Context, e *events, gone func()) (T, error)) (*huma.StreamResponse, error) {
	if !a.events() {
		res, err := f(ctx, nil, nil)
		if err != nil {
			return nil, err
		}
		return jsonAnswer(status, res), nil
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		_, w := humago.Unwrap(hc)
		ctx, over := endable(ctx, w)
		defer over()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		e := newEvents(w)
		defer e.beat(cancel)()
		res, err := f(ctx, e, cancel)
		e.end(res, err)
	}}, nil
}

// jsonAnswer is one that the library does not write, since the operation has answers of another form too.
func jsonAnswer(status int, v any) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		_, w := humago.Unwrap(hc)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(v) // the client may be gone
	}}
}

func (s *server) registerRun() {
	tags := []string{"programs"}
	run := func(session *runtime.Session, req runtime.RunRequest) func(context.Context, func(runtime.Progress)) (runtime.RunResult, error) {
		return func(ctx context.Context, progress func(runtime.Progress)) (runtime.RunResult, error) {
			if !req.Background {
				req.Progress = progress
			}
			return session.Run(ctx, req)
		}
	}
	type runIn struct {
		OneSandbox
		Keyed
		Accepts
		Body Run
	}
	register(s, huma.Operation{OperationID: "run", Method: http.MethodPost, Path: "/v1/sandboxes/{sandbox}/run", Tags: tags,
		Summary:     "Run a program in a sandbox",
		Description: "When the client goes before the end, a program in the foreground is killed, with all that it has started. A long output is cut in the middle, and the result says where the rest is.",
		Responses:   answers[runtime.RunResult](s)},
		func(ctx context.Context, in *runIn) (*huma.StreamResponse, error) {
			session, err := s.find(ctx, in.Of, in.Sandbox)
			if err != nil {
				return nil, err
			}
			req := in.Body.runtime()
			req.Sandbox, req.Key = in.Sandbox, in.Key
			return respond(ctx, in.Accepts, run(session, req))
		})
	type runAlone struct {
		Of
		Keyed
		Accepts
		Body RunAlone
	}
	register(s, huma.Operation{OperationID: "run-alone", Method: http.MethodPost, Path: "/v1/run", Tags: tags,
		Summary: "Run a program in a sandbox of its own, which goes when it ends", Responses: answers[runtime.RunResult](s)},
		func(ctx context.Context, in *runAlone) (*huma.StreamResponse, error) {
			session, err := s.make(ctx, in.Of)
			if err != nil {
				return nil, err
			}
			req := in.Body.Run.runtime()
			req.Ephemeral, req.Key = in.Body.Ephemeral.runtime(), in.Key
			return respond(ctx, in.Accepts, run(session, req))
		})
	s.registerExec(tags)

	code := func(session *runtime.Session, req runtime.CodeRequest) func(context.Context, func(runtime.Progress)) (runtime.CodeResult, error) {
		return func(ctx context.Context, progress func(runtime.Progress)) (runtime.CodeResult, error) {
			req.Progress = progress
			return session.Code(ctx, req)
		}
	}
	type codeIn struct {
		OneSandbox
		Accepts
		Body Code
	}
	register(s, huma.Operation{OperationID: "code", Method: http.MethodPost, Path: "/v1/sandboxes/{sandbox}/code", Tags: tags,
		Summary: "Run code in an interpreter of a sandbox that keeps its state", Responses: answers[runtime.CodeResult](s)},
		func(ctx context.Context, in *codeIn) (*huma.StreamResponse, error) {
			session, err := s.find(ctx, in.Of, in.Sandbox)
			if err != nil {
				return nil, err
			}
			req := in.Body.runtime()
			req.Sandbox = in.Sandbox
			return respond(ctx, in.Accepts, code(session, req))
		})
	type codeAlone struct {
		Of
		Accepts
		Body CodeAlone
	}
	register(s, huma.Operation{OperationID: "code-alone", Method: http.MethodPost, Path: "/v1/code", Tags: tags,
		Summary: "Run code in a sandbox of its own, which goes when it ends", Responses: answers[runtime.CodeResult](s)},
		func(ctx context.Context, in *codeAlone) (*huma.StreamResponse, error) {
			session, err := s.make(ctx, in.Of)
			if err != nil {
				return nil, err
			}
			req := in.Body.Code.runtime()
			req.Ephemeral = in.Body.Ephemeral.runtime()
			return respond(ctx, in.Accepts, code(session, req))
		})
}
