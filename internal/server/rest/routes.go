package rest

import (
	"context"
	"maps"
	"net/http"
	"reflect"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aethervm/aether/internal/runtime"
)

// streams marks, in an operation's metadata, one that reads its body as it comes.
const streams = "streams"

// Of are the headers of a request that say which session it means.
type Of struct {
	Session string `header:"Aether-Session" maxLength:"64" doc:"a session of the tenant"`
}

// Keyed is the header of a call that makes something.
type Keyed struct {
	Key string `header:"Idempotency-Key" maxLength:"256" doc:"the second call of a session with the same key answers as the first did, and makes nothing; kept for 24 hours"`
}

// register adds an operation. All share how errors are answered and described, and how large a request may be.
func register[I, O any](s *server, op huma.Operation, f func(context.Context, *I) (*O, error)) {
	op.BodyReadTimeout = -1 // one that ran out would end the call, however long after the body was there
	op.MaxBodyBytes = requestSize
	responses := map[string]*huma.Response{"default": {
		Description: "a problem",
		Content: map[string]*huma.MediaType{problemType: {
			Schema: s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "Problem"),
		}},
	}}
	maps.Copy(responses, op.Responses)
	op.Responses = responses
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, problem(err)
		}
		return out, nil
	})
}

func (s *server) register() {
	s.registerServer()
	s.registerSessions()
	s.registerSandboxes()
	s.registerDiff()
	s.registerRun()
	s.registerFiles()
	s.registerProcesses()
	s.registerSnapshots()
	s.registerTemplates()
	s.registerEvents()
	if s.cfg.Guard.Owner {
		s.registerTenants()
	}
}

// schema describes a type as the library does those of bodies.
func schema[T any](s *server) *huma.Schema {
	t := reflect.TypeFor[T]()
	return s.api.OpenAPI().Components.Schemas.Schema(t, true, t.Name())
}

func jsonContent[T any](s *server) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{"application/json": {Schema: schema[T](s)}}
}

// ok describes an answer that the handler writes by itself.
func ok(status int, content map[string]*huma.MediaType) map[string]*huma.Response {
	return map[string]*huma.Response{strconv.Itoa(status): {Description: http.StatusText(status), Content: content}}
}

// make opens the session that a request for something new means.
func (s *server) make(ctx context.Context, of Of) (*runtime.Session, error) {
	t, err := tenant(ctx)
	if err != nil {
		return nil, err
	}
	return s.rt.OpenSession(ctx, t.ID, s.cfg.Guard.Session(t, of.Session))
}

// find finds the session that has what a request names by ID.
func (s *server) find(ctx context.Context, of Of, id string) (*runtime.Session, error) {
	t, err := tenant(ctx)
	if err != nil {
		return nil, err
	}
	if of.Session != "" {
		return s.rt.Session(t.ID, of.Session)
	}
	return s.rt.SessionOf(t.ID, id)
}

// sessions are those that a listing shows: the one that is named, or all.
func (s *server) sessions(ctx context.Context, of Of) (runtime.Tenant, []*runtime.Session, error) {
	t, err := tenant(ctx)
	if err != nil {
		return t, nil, err
	}
	if of.Session == "" {
		return t, s.rt.Sessions(t.ID), nil
	}
	one, err := s.rt.Session(t.ID, of.Session)
	return t, []*runtime.Session{one}, err
}

// value is what a body that may be left out says.
func value[T any](body *T) (v T) {
	if body != nil {
		v = *body
	}
	return v
}
