package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/access"
)

const (
	// requestSize bounds a request, in bytes, but for uploads.
	requestSize = 16 << 20
	// uploadSize bounds a file that is uploaded.
	uploadSize = 4 << 30
)

// Config is what Handler needs.
type Config struct {
	Version string
	// Guard has the runtime, and tells whose a request is.
	Guard access.Guard
	// Budget is that of tenants that are made without one.
	Budget runtime.Budget
	Log    *slog.Logger
}

// server is the API over one runtime.
type server struct {
	cfg     Config
	rt      *runtime.Runtime
	log     *slog.Logger
	cursors *cursors
	api     huma.API
}

// Handler serves the API, under /v1.
func Handler(cfg Config) http.Handler {
	s := &server{cfg: cfg, rt: cfg.Guard.Runtime, log: cfg.Log, cursors: newCursors()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	s.api = humago.New(mux, s.config())
	s.api.UseMiddleware(limitBody)
	s.register()
	document, err := s.document()
	if err != nil {
		panic(fmt.Sprintf("rest: the description of the API cannot be written: %v", err)) // it does not depend on anything outside
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { s.noRoute(mux, w, r) })

	guarded := cfg.Guard.Require(mux, func(w http.ResponseWriter, _ *http.Request, status int, err error) {
		p := problem(err)
		p.Status, p.Title = status, http.StatusText(status)
		p.write(w)
	})
	open := http.NewServeMux()
	open.HandleFunc("GET /v1/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(document) // the client may be gone
	})
	open.HandleFunc("GET /v1", s.about)
	open.HandleFunc("GET /v1/{$}", s.about)
	open.Handle("/", guarded)
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		problem(refuse(runtime.CodeDenied, "", "send it from the console, or from a program", "the request comes from a page of another origin")).write(w)
	}))
	return s.recovered(protection.Handler(open))
}

func (s *server) config() huma.Config {
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{Title: "aether", Version: s.cfg.Version,
				Description: "Sandboxes for agents. Errors are problem+json with code, cause and remedy. " +
					"The header " + access.SessionHeader + " names a session of the tenant; without it, what is made belongs to the session \"" +
					access.DefaultSession + "\", and what is named by ID is looked for in all of them. Durations are in seconds."},
			Components: &huma.Components{
				Schemas:         huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer", Description: "a tenant's token"}},
			},
			Security: []map[string][]string{{"token": {}}},
			Servers:  []*huma.Server{{URL: "/"}},
		},
		Formats:                      map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{unify},
	}
}

// document is the description of the API as it is served.
func (s *server) document() ([]byte, error) {
	api := s.api.OpenAPI()
	// The library's own form of errors is in no answer.
	delete(api.Components.Schemas.Map(), "ErrorModel")
	s.describeOpen(api)
	raw, err := json.Marshal(api)
	if err != nil {
		return nil, err
	}
	return raw, nil
}

// About is what a client finds out first.
type About struct {
	Version string `json:"version"`
	Auth    string `json:"auth" enum:"bearer,none" doc:"what a request needs"`
	OpenAPI string `json:"openapi" doc:"where the description of the API is"`
}

func (s *server) auth() string {
	if s.cfg.Guard.NoAuth || s.cfg.Guard.Owner {
		return "none"
	}
	return "bearer"
}

func (s *server) about(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(About{Version: s.cfg.Version, Auth: s.auth(), OpenAPI: "/v1/openapi.json"}) // the client may be gone
}

// describeOpen adds what needs no token.
func (s *server) describeOpen(api *huma.OpenAPI) {
	reply := func(description string, schema *huma.Schema) map[string]*huma.Response {
		return map[string]*huma.Response{"200": {Description: description,
			Content: map[string]*huma.MediaType{"application/json": {Schema: schema}}}}
	}
	open := []map[string][]string{{}}
	api.AddOperation(&huma.Operation{Method: http.MethodGet, Path: "/v1", OperationID: "about", Summary: "What this server is", Tags: []string{"server"},
		Security: open, Responses: reply("OK", huma.SchemaFromType(api.Components.Schemas, reflect.TypeFor[About]()))})
	api.AddOperation(&huma.Operation{Method: http.MethodGet, Path: "/v1/openapi.json", OperationID: "get-openapi", Summary: "This description", Tags: []string{"server"},
		Security: open, Responses: reply("an OpenAPI 3.1 document", &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true})})
}

// limitBody bounds what is read of every request but uploads and standard input, which have bounds of their own.
func limitBody(ctx huma.Context, next func(huma.Context)) {
	if ctx.Operation().Metadata[streams] == nil {
		r, w := humago.Unwrap(ctx)
		r.Body = http.MaxBytesReader(w, r.Body, requestSize)
		if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/x-www-form-urlencoded" {
			r.Header.Set("Content-Type", "application/json") // what curl says of any data unless it is told
		}
	}
	next(ctx)
}

// noRoute answers what no operation has.
func (s *server) noRoute(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := mux.Handler(other); pattern != "/" && pattern != "" {
			w.Header().Add("Allow", method)
		}
	}
	p := problem(refuse(runtime.CodeNotFound, "", "/v1/openapi.json describes what there is", "there is nothing at this address"))
	if w.Header().Get("Allow") != "" {
		p = problem(refuse(runtime.CodeInvalid, "", "use one of "+strings.Join(w.Header().Values("Allow"), ", "), "there is no such method here"))
		p.Status, p.Title = http.StatusMethodNotAllowed, http.StatusText(http.StatusMethodNotAllowed)
	}
	p.write(w)
}

// recovered logs a fault, and ends the connection: the library panics when it cannot write.
func (s *server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, ok := p.(error); (!ok || !errors.Is(err, http.ErrAbortHandler)) && r.Context().Err() == nil {
				s.log.Error("a request failed", "method", r.Method, "path", r.URL.Path, "error", p)
			}
			panic(http.ErrAbortHandler)
		}()
		next.ServeHTTP(w, r)
	})
}

// tenant is whose the request is.
func tenant(ctx context.Context) (runtime.Tenant, error) {
	if t, ok := access.Tenant(ctx); ok {
		return t, nil
	}
	return runtime.Tenant{}, refuse(runtime.CodeUnauthenticated, "", "send a token", "the request has no tenant")
}

func refuse(code runtime.Code, op, remedy, cause string, args ...any) *runtime.Error {
	return &runtime.Error{Code: code, Op: op, Remedy: remedy, Cause: fmt.Sprintf(cause, args...)}
}
