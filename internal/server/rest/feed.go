package rest

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/access"
)

// AuditEntry is one line of the audit log, of one tenant. Its number and digests are left out: they count what others
// do, too.
type AuditEntry struct {
	Time       time.Time         `json:"time"`
	Session    string            `json:"session,omitempty"`
	Op         string            `json:"op"`
	Sandbox    string            `json:"sandbox,omitempty"`
	What       map[string]string `json:"what,omitempty" doc:"the op's particulars, such as the command that was run"`
	Result     string            `json:"result" doc:"ok, or the code of an error"`
	Cause      string            `json:"cause,omitempty"`
	DurationMS int64             `json:"duration_ms,omitempty"`
}

// Hello is the first event of the feed.
type Hello struct {
	Type string `json:"type" enum:"hello,lost"`
	Seq  int64  `json:"seq"`
}

func (s *server) registerEvents() {
	tags := []string{"events"}
	type query struct {
		Page
		Sandbox string `query:"sandbox" maxLength:"64" doc:"of this one only"`
	}
	type list struct {
		Body struct {
			Entries []AuditEntry `json:"entries"`
			Next    string       `json:"next,omitempty"`
		} `nameHint:"AuditList"`
	}
	register(s, huma.Operation{OperationID: "list-audit", Method: http.MethodGet, Path: "/v1/audit", Tags: tags,
		Summary:     "The tenant's entries of the audit log, the newest first",
		Description: "A page may have fewer entries than were asked for, or none, though there is a next one."},
		func(ctx context.Context, in *query) (*list, error) {
			t, err := tenant(ctx)
			if err != nil {
				return nil, err
			}
			q := runtime.AuditQuery{Sandbox: in.Sandbox, Limit: in.Limit}
			if in.Cursor != "" {
				position, err := s.cursors.open("audit", t.ID, in.Cursor)
				if err != nil {
					return nil, err
				}
				if q.Cursor, err = strconv.ParseInt(position, 10, 64); err != nil {
					return nil, err
				}
			}
			found, err := s.rt.Audit(ctx, t.ID, q)
			if err != nil {
				return nil, err
			}
			out := &list{}
			out.Body.Entries = make([]AuditEntry, 0, len(found.Entries))
			for _, e := range found.Entries {
				out.Body.Entries = append(out.Body.Entries, AuditEntry{e.Time, e.Session, e.Op, e.Sandbox, e.What, e.Result, e.Cause, e.DurationMS})
			}
			if found.Next != 0 {
				out.Body.Next = s.cursors.seal("audit", t.ID, strconv.FormatInt(found.Next, 10))
			}
			return out, nil
		})

	type follow struct {
		Last string `header:"Last-Event-ID" maxLength:"20" pattern:"^[0-9]*$" doc:"of the last event that was seen, to go on after it"`
	}
	register(s, huma.Operation{OperationID: "follow-events", Method: http.MethodGet, Path: "/v1/events", Tags: tags,
		Summary: "What happens to the tenant's sessions, sandboxes, processes, snapshots and templates, as it happens",
		Description: "The first event is hello. Each of the others has an id, the type as its name, and as its data: " +
			"seq, time, type, and what it is about: session, sandbox, parent, process, snapshot, template, cause. " +
			"lost says that some were missed: read the listings again.",
		Responses: ok(http.StatusOK, map[string]*huma.MediaType{eventStream: eventContent(
			"hello, lost, session.opened, session.closed, sandbox.created, .forked, .restored, .rolled_back, .paused, .resumed, .killed, process.started, .ended, snapshot.created, .removed, template.created, .removed; error, a problem, ends it")})},
		func(ctx context.Context, in *follow) (*huma.StreamResponse, error) {
			t, err := tenant(ctx)
			if err != nil {
				return nil, err
			}
			now, err := s.rt.Events(ctx, t.ID, -1)
			if err != nil {
				return nil, err
			}
			after := now.Last
			if in.Last != "" {
				if after, err = strconv.ParseInt(in.Last, 10, 64); err != nil {
					return nil, refuse(runtime.CodeInvalid, "events", "leave Last-Event-ID out", "it is no number of an event")
				}
			}
			return &huma.StreamResponse{Body: func(hc huma.Context) {
				_, w := humago.Unwrap(hc)
				e := newEvents(w)
				ctx, cancel := context.WithCancel(ctx)
				defer cancel()
				defer e.beatWhile(func() error { return access.Check(ctx) }, cancel)()
				_ = e.send("error", 0, problem(s.feed(ctx, e, t.ID, after))) // the client may be gone
			}}, nil
		})
}

// feed sends the events of a tenant after one, until something ends it.
func (s *server) feed(ctx context.Context, e *events, tenant string, after int64) error {
	if err := e.send("hello", 0, Hello{"hello", after}); err != nil {
		return err
	}
	for {
		page, err := s.rt.Events(ctx, tenant, after)
		if why := access.Check(ctx); why != nil { // the token was replaced, which is also why it may have ended
			return why
		}
		if err != nil {
			return err
		}
		if page.Lost {
			if err := e.send("lost", 0, Hello{"lost", after}); err != nil {
				return err
			}
		}
		for _, ev := range page.Events {
			if err := e.send(string(ev.Type), ev.Seq, ev); err != nil {
				return err
			}
		}
		after = page.Last
	}
}
