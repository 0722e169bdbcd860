package rest

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/sandbox"
)

// Spec is what a sandbox is to be. Its zero value is a good one.
type Spec struct {
	Template  string              `json:"template,omitempty" maxLength:"64" doc:"make it a copy of this template, by ID or name; but for ttl_s, idle and labels, what follows is the template's then"`
	System    string              `json:"system,omitempty" doc:"a system's name, or auto: the best ranked that can do what is asked for"`
	Image     string              `json:"image,omitempty" doc:"by name or digest"`
	VCPUs     int                 `json:"vcpus,omitempty" minimum:"0"`
	MemoryMiB int                 `json:"memory_mib,omitempty" minimum:"0"`
	Processes int                 `json:"processes,omitempty" minimum:"0" doc:"at the same time"`
	Network   sandbox.Network     `json:"network,omitempty" enum:"none,outbound"`
	Egress    []string            `json:"egress,omitempty" nullable:"false" doc:"what it may reach, and nothing else: pypi.org:443, *.debian.org, 10.1.2.0/24:8000-8100"`
	Secrets   []runtime.SecretUse `json:"secrets,omitempty" nullable:"false" doc:"credentials that the server has, which the sandbox uses and does not see"`
	Env       []string            `json:"env,omitempty" nullable:"false" doc:"KEY=value, for every program"`
	TTLS      float64             `json:"ttl_s,omitempty" minimum:"0" maximum:"3e9" doc:"kill it so long after its creation; 0 is never"`
	Idle      Idle                `json:"idle,omitzero"`
	Labels    map[string]string   `json:"labels,omitempty" doc:"the caller's own"`
}

// Idle says what happens to a sandbox in which nothing goes on.
type Idle struct {
	PauseS float64 `json:"pause_s,omitempty" minimum:"-1" maximum:"3e9" doc:"pause it after so long; 0 is the default, 2 minutes; -1 is never"`
	KillS  float64 `json:"kill_s,omitempty" minimum:"-1" maximum:"3e9" doc:"kill it after so long; 0 is the default, 30 minutes; -1 is never"`
}

func (i Idle) runtime() runtime.IdlePolicy {
	return runtime.IdlePolicy{Pause: duration(i.PauseS), Kill: duration(i.KillS)}
}

func (s Spec) runtime() runtime.SandboxSpec {
	return runtime.SandboxSpec{Template: s.Template, System: s.System, Image: s.Image, VCPUs: s.VCPUs, MemoryMiB: s.MemoryMiB, Processes: s.Processes,
		Network: s.Network, Egress: s.Egress, Secrets: s.Secrets, Env: s.Env, TTL: duration(s.TTLS), Idle: s.Idle.runtime(), Labels: s.Labels}
}

// Sandbox is one that is alive.
type Sandbox struct {
	runtime.SandboxInfo
	Session string `json:"session"`
}

func (s *server) registerSandboxes() {
	tags := []string{"sandboxes"}
	type made struct {
		Location string `header:"Location"`
		Body     Sandbox
	}
	type create struct {
		Of
		Keyed
		Body *Spec
	}
	register(s, huma.Operation{OperationID: "create-sandbox", Method: http.MethodPost, Path: "/v1/sandboxes", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Create a sandbox"},
		func(ctx context.Context, in *create) (*made, error) {
			session, err := s.make(ctx, in.Of)
			if err != nil {
				return nil, err
			}
			info, err := session.Create(ctx, runtime.CreateRequest{SandboxSpec: value(in.Body).runtime(), Key: in.Key})
			return &made{"/v1/sandboxes/" + info.ID, Sandbox{info, session.ID()}}, err
		})

	type query struct {
		Of
		Page
	}
	type list struct {
		Body struct {
			Sandboxes []Sandbox `json:"sandboxes"`
			Next      string    `json:"next,omitempty"`
		} `nameHint:"SandboxList"`
	}
	register(s, huma.Operation{OperationID: "list-sandboxes", Method: http.MethodGet, Path: "/v1/sandboxes", Tags: tags,
		Summary: "The sandboxes of all the tenant's sessions, or of the one that is named, in the order of their creation"},
		func(ctx context.Context, in *query) (*list, error) {
			t, sessions, err := s.sessions(ctx, in.Of)
			if err != nil {
				return nil, err
			}
			var all []Sandbox
			for _, session := range sessions {
				l, err := session.List(ctx)
				if closed(err) {
					continue
				}
				if err != nil {
					return nil, err
				}
				for _, info := range l.Sandboxes {
					all = append(all, Sandbox{info, session.ID()})
				}
			}
			all, next, err := page(s.cursors, "sandboxes", t.ID, in.Page, all, func(sb Sandbox) string { return at(sb.Created, sb.ID) })
			out := &list{}
			out.Body.Sandboxes, out.Body.Next = all, next
			return out, err
		})

	register(s, huma.Operation{OperationID: "get-sandbox", Method: http.MethodGet, Path: "/v1/sandboxes/{sandbox}", Tags: tags,
		Summary: "One sandbox"}, s.onSandbox((*runtime.Session).Inspect))
	register(s, huma.Operation{OperationID: "pause-sandbox", Method: http.MethodPost, Path: "/v1/sandboxes/{sandbox}/pause", Tags: tags,
		Summary: "Pause a sandbox, with all that runs in it; the next operation on it lets it go on"}, s.onSandbox((*runtime.Session).Pause))
	register(s, huma.Operation{OperationID: "resume-sandbox", Method: http.MethodPost, Path: "/v1/sandboxes/{sandbox}/resume", Tags: tags,
		Summary: "Let a sandbox go on"}, s.onSandbox((*runtime.Session).Resume))
	register(s, huma.Operation{OperationID: "kill-sandbox", Method: http.MethodDelete, Path: "/v1/sandboxes/{sandbox}", Tags: tags,
		Summary: "Kill a sandbox; one that is gone already is no error"},
		func(ctx context.Context, in *OneSandbox) (*struct{}, error) {
			session, err := s.find(ctx, in.Of, in.Sandbox)
			if err != nil {
				return nil, err
			}
			return nil, session.Kill(ctx, in.Sandbox)
		})

	type stats struct{ Body sandbox.Stats }
	register(s, huma.Operation{OperationID: "get-stats", Method: http.MethodGet, Path: "/v1/sandboxes/{sandbox}/stats", Tags: tags,
		Summary: "What a sandbox uses now, where its system says so; to look keeps it from nothing"},
		func(ctx context.Context, in *OneSandbox) (*stats, error) {
			session, err := s.find(ctx, in.Of, in.Sandbox)
			if err != nil {
				return nil, err
			}
			got, err := session.Stats(ctx, in.Sandbox)
			return &stats{got}, err
		})
	type egress struct{ Body sandbox.EgressLog }
	register(s, huma.Operation{OperationID: "get-egress", Method: http.MethodGet, Path: "/v1/sandboxes/{sandbox}/egress", Tags: tags,
		Summary: "Which flows of a sandbox were refused, and what its secrets were used for, where its system keeps a record"},
		func(ctx context.Context, in *OneSandbox) (*egress, error) {
			session, err := s.find(ctx, in.Of, in.Sandbox)
			if err != nil {
				return nil, err
			}
			log, err := session.EgressLog(ctx, in.Sandbox)
			if log.Refused == nil {
				log.Refused = []sandbox.RefusedFlow{}
			}
			return &egress{log}, err
		})
	s.registerFork(tags)
}

// OneSandbox is a request for one.
type OneSandbox struct {
	Of
	Sandbox string `path:"sandbox" maxLength:"64"`
}

type sandboxBody struct{ Body Sandbox }

// onSandbox is an operation that takes an ID and describes the sandbox.
func (s *server) onSandbox(f func(*runtime.Session, context.Context, string) (runtime.SandboxInfo, error)) func(context.Context, *OneSandbox) (*sandboxBody, error) {
	return func(ctx context.Context, in *OneSandbox) (*sandboxBody, error) {
		session, err := s.find(ctx, in.Of, in.Sandbox)
		if err != nil {
			return nil, err
		}
		info, err := f(session, ctx, in.Sandbox)
		return &sandboxBody{Sandbox{info, session.ID()}}, err
	}
}

// Fork is what copies are to be made of a sandbox.
type Fork struct {
	Count int   `json:"count,omitempty" minimum:"0" doc:"how many; 0 means as many as runs, or 1"`
	Runs  []Run `json:"runs,omitempty" nullable:"false" doc:"none, one for each copy to run, or as many as there are copies; AETHER_FORK is the copy's number, from 0"`
}

// Forked are the copies.
type Forked struct {
	Kind       sandbox.SnapshotKind `json:"kind" doc:"full, or files where processes do not survive"`
	Children   []ForkedChild        `json:"children"`
	DurationMS int64                `json:"duration_ms" doc:"without the programs"`
}

// ForkedChild is one copy and, if it had something to run, how that went.
type ForkedChild struct {
	Sandbox Sandbox            `json:"sandbox"`
	Run     *runtime.RunResult `json:"run,omitempty"`
	Error   *runtime.Error     `json:"error,omitempty"`
}

func (s *server) registerFork(tags []string) {
	type fork struct {
		OneSandbox
		Keyed
		Body *Fork
	}
	type forked struct{ Body Forked }
	register(s, huma.Operation{OperationID: "fork-sandbox", Method: http.MethodPost, Path: "/v1/sandboxes/{sandbox}/fork", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Copy a running sandbox, all copies or none, and run something in each"},
		func(ctx context.Context, in *fork) (*forked, error) {
			session, err := s.find(ctx, in.Of, in.Sandbox)
			if err != nil {
				return nil, err
			}
			body := value(in.Body)
			req := runtime.ForkRequest{Sandbox: in.Sandbox, Count: body.Count, Key: in.Key}
			for _, run := range body.Runs {
				req.Runs = append(req.Runs, run.runtime())
			}
			res, err := session.Fork(ctx, req)
			out := &forked{Forked{Kind: res.Kind, DurationMS: res.DurationMS, Children: []ForkedChild{}}}
			for _, child := range res.Children {
				out.Body.Children = append(out.Body.Children, ForkedChild{Sandbox{child.Sandbox, session.ID()}, child.Run, child.Error})
			}
			return out, err
		})
}

// at is a position in the order of creation.
func at(created time.Time, id string) string {
	return fmt.Sprintf("%020d %s", created.UnixNano(), id)
}

// closed tells that a session was closed while a listing went through all of them.
func closed(err error) bool { return err != nil && runtime.CodeOf(err) == runtime.CodeGone }
