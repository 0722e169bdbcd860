package rest

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aethervm/aether/internal/runtime"
)

// Whoami is whose the request is.
type Whoami struct {
	Tenant Tenant              `json:"tenant"`
	Auth   string              `json:"auth" enum:"bearer,none"`
	Budget runtime.BudgetState `json:"budget" doc:"of all the tenant's sessions together"`
}

// Tenant is whoever a token stands for.
type Tenant struct {
	ID           string               `json:"id"`
	Name         string               `json:"name"`
	Capabilities []runtime.Capability `json:"capabilities"`
	Budget       Budget               `json:"budget,omitzero"`
	Created      time.Time            `json:"created"`
}

// TenantOf is a tenant of the runtime as the API shows it.
func TenantOf(t runtime.Tenant) Tenant {
	return Tenant{ID: t.ID, Name: t.Name, Capabilities: t.Capabilities, Budget: BudgetOf(t.Budget), Created: t.Created}
}

// Budget bounds what is used. A zero field is no bound.
type Budget struct {
	Sandboxes      int64   `json:"sandboxes,omitempty" minimum:"0" doc:"alive at the same time, paused ones too"`
	MemoryMiB      int64   `json:"memory_mib,omitempty" minimum:"0" doc:"of those"`
	SandboxSeconds int64   `json:"sandbox_seconds,omitempty" minimum:"0" doc:"that they run, within a window"`
	OutputBytes    int64   `json:"output_bytes,omitempty" minimum:"0" doc:"that programs write, within a window"`
	VCPUSeconds    int64   `json:"vcpu_seconds,omitempty" minimum:"0" doc:"within a window, where the system reports them"`
	EgressBytes    int64   `json:"egress_bytes,omitempty" minimum:"0" doc:"that are sent to the network, headers included, within a window, where the system reports them"`
	Snapshots      int64   `json:"snapshots,omitempty" minimum:"0" doc:"that are kept"`
	Templates      int64   `json:"templates,omitempty" minimum:"0" doc:"that are kept"`
	KeptBytes      int64   `json:"kept_bytes,omitempty" minimum:"0" doc:"on disk, of snapshots and templates together; while one is made, its sandbox's memory counts"`
	WindowS        float64 `json:"window_s,omitempty" minimum:"0" maximum:"3e9" doc:"after which what adds up begins at zero again; 0 is never"`
}

// BudgetOf is a budget of the runtime as the API shows it.
func BudgetOf(b runtime.Budget) Budget {
	return Budget{b.Sandboxes, b.MemoryMiB, b.SandboxSeconds, b.OutputBytes, b.VCPUSeconds, b.EgressBytes,
		b.Snapshots, b.Templates, b.KeptBytes, b.Window.Seconds()}
}

// Runtime is the budget as the runtime has it.
func (b Budget) Runtime() runtime.Budget {
	return runtime.Budget{Sandboxes: b.Sandboxes, MemoryMiB: b.MemoryMiB, SandboxSeconds: b.SandboxSeconds,
		OutputBytes: b.OutputBytes, VCPUSeconds: b.VCPUSeconds, EgressBytes: b.EgressBytes,
		Snapshots: b.Snapshots, Templates: b.Templates, KeptBytes: b.KeptBytes, Window: duration(b.WindowS)}
}

// duration is that of seconds, which the description of the API bounds.
func duration(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// Session is one of the tenant's.
type Session struct {
	ID           string               `json:"id"`
	Capabilities []runtime.Capability `json:"capabilities"`
	Sandboxes    int                  `json:"sandboxes" doc:"that are alive"`
	Budget       runtime.BudgetState  `json:"budget"`
}

func sessionOf(s *runtime.Session) Session {
	v := Session{ID: s.ID(), Capabilities: s.Capabilities(), Budget: s.Budget(), Sandboxes: s.Sandboxes()}
	if v.Capabilities == nil {
		v.Capabilities = []runtime.Capability{}
	}
	return v
}

// NewSession is what a session is to be.
type NewSession struct {
	ID           string               `json:"id,omitempty" pattern:"^[A-Za-z0-9._-]{1,64}$" doc:"to name it; without one, it gets an ID of its own"`
	Capabilities []runtime.Capability `json:"capabilities,omitempty" nullable:"false" enum:"read,exec,fork,network" doc:"within those of the tenant; without, all of them"`
	Budget       Budget               `json:"budget,omitzero"`
}

func (s *server) registerServer() {
	type whoami struct{ Body Whoami }
	register(s, huma.Operation{OperationID: "whoami", Method: http.MethodGet, Path: "/v1/whoami", Tags: []string{"server"},
		Summary: "Whose the request is, and what is left of the tenant's budget"},
		func(ctx context.Context, _ *struct{}) (*whoami, error) {
			t, err := tenant(ctx)
			if err != nil {
				return nil, err
			}
			budget, err := s.rt.TenantBudget(t.ID)
			return &whoami{Whoami{TenantOf(t), s.auth(), budget}}, err
		})
	type systems struct {
		Body struct {
			Systems []runtime.System `json:"systems"`
		} `nameHint:"SystemList"`
	}
	register(s, huma.Operation{OperationID: "list-systems", Method: http.MethodGet, Path: "/v1/systems", Tags: []string{"server"},
		Summary: "The systems in the judge's ranking, and which of them this host has"},
		func(ctx context.Context, _ *struct{}) (*systems, error) {
			list, err := s.rt.Systems(ctx)
			out := &systems{}
			out.Body.Systems = list
			return out, err
		})
}

func (s *server) registerSessions() {
	tags := []string{"sessions"}
	type one struct {
		Status int
		Body   Session
	}
	type create struct{ Body *NewSession }
	register(s, huma.Operation{OperationID: "open-session", Method: http.MethodPost, Path: "/v1/sessions", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary:     "Open a session",
		Description: "One that is open is answered as it is, with status 200. A session that a request names and that is not open is opened by it, if it makes something.",
		Responses:   ok(http.StatusOK, jsonContent[Session](s))},
		func(ctx context.Context, in *create) (*one, error) {
			t, err := tenant(ctx)
			if err != nil {
				return nil, err
			}
			status, body := http.StatusCreated, value(in.Body)
			if _, err := s.rt.Session(t.ID, body.ID); body.ID != "" && err == nil {
				status = http.StatusOK
			}
			spec := runtime.SessionSpec{ID: body.ID, Capabilities: s.cfg.Guard.Capabilities(t, body.Capabilities), Budget: body.Budget.Runtime()}
			opened, err := s.rt.OpenSession(ctx, t.ID, spec)
			if err != nil {
				return nil, err
			}
			return &one{status, sessionOf(opened)}, nil
		})

	type list struct {
		Body struct {
			Sessions []Session `json:"sessions"`
			Next     string    `json:"next,omitempty"`
		} `nameHint:"SessionList"`
	}
	register(s, huma.Operation{OperationID: "list-sessions", Method: http.MethodGet, Path: "/v1/sessions", Tags: tags,
		Summary: "The tenant's open sessions, by ID"},
		func(ctx context.Context, in *struct{ Page }) (*list, error) {
			t, sessions, err := s.sessions(ctx, Of{})
			if err != nil {
				return nil, err
			}
			sessions, next, err := page(s.cursors, "sessions", t.ID, in.Page, sessions, (*runtime.Session).ID)
			out := &list{}
			out.Body.Sessions, out.Body.Next = make([]Session, 0, len(sessions)), next
			for _, session := range sessions {
				out.Body.Sessions = append(out.Body.Sessions, sessionOf(session))
			}
			return out, err
		})

	type named struct {
		Session string `path:"session" maxLength:"64"`
	}
	type got struct{ Body Session }
	register(s, huma.Operation{OperationID: "get-session", Method: http.MethodGet, Path: "/v1/sessions/{session}", Tags: tags,
		Summary: "One session"},
		func(ctx context.Context, in *named) (*got, error) {
			session, err := s.find(ctx, Of{in.Session}, "")
			if err != nil {
				return nil, err
			}
			return &got{sessionOf(session)}, nil
		})
	register(s, huma.Operation{OperationID: "close-session", Method: http.MethodDelete, Path: "/v1/sessions/{session}", Tags: tags,
		Summary: "Close a session: its sandboxes are killed, its outputs forgotten"},
		func(ctx context.Context, in *named) (*struct{}, error) {
			session, err := s.find(ctx, Of{in.Session}, "")
			if err != nil {
				return nil, err
			}
			return nil, session.Close()
		})
}
