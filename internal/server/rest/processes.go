package rest

import (
	"context"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/access"
)

// Process is one in the background.
type Process struct {
	runtime.ProcessInfo
	Session string `json:"session"`
}

// OneProcess is a request for one.
type OneProcess struct {
	Of
	Process string `path:"process" maxLength:"64"`
}

// followWait is how long one look waits for output: an end of the server waits for it.
const followWait = 2 * time.Second

func (s *server) registerProcesses() {
	tags := []string{"processes"}
	type query struct {
		Of
		Page
		Sandbox string `query:"sandbox" maxLength:"64" doc:"those of this one only"`
	}
	type list struct {
		Body struct {
			Processes []Process `json:"processes"`
			Next      string    `json:"next,omitempty"`
		} `nameHint:"ProcessList"`
	}
	register(s, huma.Operation{OperationID: "list-processes", Method: http.MethodGet, Path: "/v1/processes", Tags: tags,
		Summary: "Background processes, ended ones too while their output is kept, in the order of their start"},
		func(ctx context.Context, in *query) (*list, error) {
			t, sessions, err := s.sessions(ctx, in.Of)
			if err == nil && in.Sandbox != "" {
				var one *runtime.Session
				one, err = s.find(ctx, in.Of, in.Sandbox)
				sessions = []*runtime.Session{one}
			}
			if err != nil {
				return nil, err
			}
			var all []Process
			for _, session := range sessions {
				infos, err := session.Processes(ctx, in.Sandbox)
				if closed(err) && in.Sandbox == "" {
					continue
				}
				if err != nil {
					return nil, err
				}
				for _, info := range infos {
					all = append(all, Process{info, session.ID()})
				}
			}
			all, next, err := page(s.cursors, "processes", t.ID, in.Page, all, func(p Process) string { return at(p.Started, p.ID) })
			out := &list{}
			out.Body.Processes, out.Body.Next = all, next
			return out, err
		})

	type poll struct {
		OneProcess
		Stdout int64   `query:"stdout" minimum:"0" doc:"where to begin: next of the last answer"`
		Stderr int64   `query:"stderr" minimum:"0"`
		Max    int     `query:"max" minimum:"0" doc:"bytes of each stream; 0 is the most"`
		WaitS  float64 `query:"wait_s" minimum:"0" maximum:"600" doc:"how long to wait for more output or the end, if there is none yet"`
	}
	type polled struct{ Body runtime.PollResult }
	register(s, huma.Operation{OperationID: "poll-process", Method: http.MethodGet, Path: "/v1/processes/{process}", Tags: tags,
		Summary: "How a process is, and what it wrote since"},
		func(ctx context.Context, in *poll) (*polled, error) {
			session, err := s.find(ctx, in.Of, in.Process)
			if err != nil {
				return nil, err
			}
			res, err := session.Poll(ctx, runtime.PollRequest{Process: in.Process, Stdout: in.Stdout, Stderr: in.Stderr, Max: in.Max, Wait: duration(in.WaitS)})
			return &polled{res}, err
		})
	s.registerFollow(tags)
	s.registerTerminals(tags)

	type one struct{ Body Process }
	type stdin struct {
		OneProcess
		Body struct {
			Data     string `json:"data,omitempty"`
			Encoding string `json:"encoding,omitempty" enum:"base64" doc:"of data; none for UTF-8"`
			Close    bool   `json:"close,omitempty" doc:"end the standard input after data"`
		} `nameHint:"Stdin"`
	}
	register(s, huma.Operation{OperationID: "write-stdin", Method: http.MethodPost, Path: "/v1/processes/{process}/stdin", Tags: tags,
		Summary: "Feed the standard input of a process"},
		func(ctx context.Context, in *stdin) (*one, error) {
			session, err := s.find(ctx, in.Of, in.Process)
			if err != nil {
				return nil, err
			}
			data := in.Body.Data
			if in.Body.Encoding != "" {
				raw, err := base64.StdEncoding.DecodeString(data)
				if err != nil {
					return nil, refuse(runtime.CodeInvalid, "write stdin", "encode it with padding, or leave the encoding out", "the data is no base64")
				}
				data = string(raw)
			}
			info, err := session.WriteStdin(ctx, runtime.StdinRequest{Process: in.Process, Data: data, Close: in.Body.Close})
			return &one{Process{info, session.ID()}}, err
		})
	type signal struct {
		OneProcess
		Body struct {
			Signal string `json:"signal" maxLength:"32" doc:"TERM, INT, KILL, or a number"`
		} `nameHint:"Signal"`
	}
	register(s, huma.Operation{OperationID: "signal-process", Method: http.MethodPost, Path: "/v1/processes/{process}/signal", Tags: tags,
		Summary: "Send a signal to a process and its descendants"},
		func(ctx context.Context, in *signal) (*one, error) {
			session, err := s.find(ctx, in.Of, in.Process)
			if err != nil {
				return nil, err
			}
			info, err := session.Signal(ctx, runtime.SignalRequest{Process: in.Process, Signal: in.Body.Signal})
			return &one{Process{info, session.ID()}}, err
		})

	type output struct {
		Of
		Output string         `path:"output" maxLength:"64" doc:"of a result that was cut, or the handle of a process"`
		Stream runtime.Stream `query:"stream" enum:"stdout,stderr" default:"stdout"`
		Offset int64          `query:"offset" doc:"in bytes; negative counts from the end"`
		Max    int            `query:"max" minimum:"0" doc:"bytes; 0 is the most"`
	}
	type chunk struct{ Body runtime.OutputChunk }
	register(s, huma.Operation{OperationID: "read-output", Method: http.MethodGet, Path: "/v1/outputs/{output}", Tags: tags,
		Summary: "A part of what a program wrote"},
		func(ctx context.Context, in *output) (*chunk, error) {
			session, err := s.find(ctx, in.Of, in.Output)
			if err != nil {
				return nil, err
			}
			res, err := session.Output(ctx, runtime.OutputRequest{Output: in.Output, Stream: in.Stream, Offset: in.Offset, Max: in.Max})
			return &chunk{res}, err
		})
}

func (s *server) registerFollow(tags []string) {
	type follow struct {
		OneProcess
		Stdout int64 `query:"stdout" minimum:"0" doc:"where to begin"`
		Stderr int64 `query:"stderr" minimum:"0"`
	}
	register(s, huma.Operation{OperationID: "follow-process", Method: http.MethodGet, Path: "/v1/processes/{process}/stream", Tags: tags,
		Summary:     "What a process writes, as it comes, until its end",
		Description: "Of a long output the middle is not kept: a client that is late misses some of it, and an event says how many bytes.",
		Responses: ok(http.StatusOK, map[string]*huma.MediaType{eventStream: eventContent(
			"stdout and stderr, with text and encoding (base64, or none for UTF-8); skipped, with stream and bytes; then result, a process, or error, a problem")})},
		func(ctx context.Context, in *follow) (*huma.StreamResponse, error) {
			session, err := s.find(ctx, in.Of, in.Process)
			if err != nil {
				return nil, err
			}
			req := runtime.PollRequest{Process: in.Process, Stdout: in.Stdout, Stderr: in.Stderr}
			first, err := session.Poll(ctx, req)
			if err != nil {
				return nil, err
			}
			return &huma.StreamResponse{Body: func(hc huma.Context) {
				_, w := humago.Unwrap(hc)
				e := newEvents(w)
				defer e.beat(nil)()
				end, err := e.follow(ctx, session, req, first)
				e.end(Process{end, session.ID()}, err)
			}}, nil
		})
}

// follow sends what a process writes until its end.
func (e *events) follow(ctx context.Context, session *runtime.Session, req runtime.PollRequest, at runtime.PollResult) (runtime.ProcessInfo, error) {
	req.Wait = followWait
	for {
		for _, part := range []struct {
			stream runtime.Stream
			chunk  runtime.OutputChunk
		}{{runtime.Stdout, at.Stdout}, {runtime.Stderr, at.Stderr}} {
			if err := e.chunk(part.stream, part.chunk); err != nil {
				return at.ProcessInfo, err
			}
		}
		req.Stdout, req.Stderr = at.Stdout.Next, at.Stderr.Next
		if !at.Running && at.Stdout.End && at.Stderr.End {
			return at.ProcessInfo, nil
		}
		var err error
		if at, err = session.Poll(ctx, req); err != nil {
			return at.ProcessInfo, err
		}
		if err := access.Check(ctx); err != nil { // its token was replaced
			return at.ProcessInfo, err
		}
	}
}

// Skipped tells of output that is not kept any more.
type Skipped struct {
	Stream runtime.Stream `json:"stream"`
	Bytes  int64          `json:"bytes"`
}

func (e *events) chunk(stream runtime.Stream, c runtime.OutputChunk) error {
	if c.Skipped > 0 {
		if err := e.send("skipped", 0, Skipped{stream, c.Skipped}); err != nil {
			return err
		}
	}
	if c.Text == "" {
		return nil
	}
	if c.Encoding != "" { // as it is: it may be more than the text of an event that was cut at a character
		if data, err := base64.StdEncoding.DecodeString(c.Text); err == nil {
			return e.output(stream, data)
		}
	}
	return e.send(string(stream), 0, Chunk{Text: c.Text})
}
