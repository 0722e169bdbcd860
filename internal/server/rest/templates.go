package rest

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/sandbox"
)

// NewTemplate is what a template is to be.
type NewTemplate struct {
	Name      string          `json:"name" pattern:"^[a-z0-9][a-z0-9._-]{0,63}$" doc:"a name that the tenant has already moves to the new template"`
	System    string          `json:"system,omitempty" doc:"a system's name, or auto: the best ranked that keeps templates"`
	Image     string          `json:"image,omitempty" doc:"by name or digest"`
	VCPUs     int             `json:"vcpus,omitempty" minimum:"0"`
	MemoryMiB int             `json:"memory_mib,omitempty" minimum:"0"`
	Processes int             `json:"processes,omitempty" minimum:"0" doc:"at the same time"`
	Network   sandbox.Network `json:"network,omitempty" enum:"none,outbound"`
	Egress    []string        `json:"egress,omitempty" nullable:"false" doc:"what copies may reach, and nothing else"`
	Env       []string        `json:"env,omitempty" nullable:"false" doc:"KEY=value, for every program"`
	WarmUp    []string        `json:"warm_up,omitempty" nullable:"false" maxItems:"64" doc:"command lines for /bin/sh, run before, one after the other, each to its end with status 0; what they leave running is in every copy"`
}

func (n NewTemplate) runtime() runtime.TemplateRequest {
	return runtime.TemplateRequest{Name: n.Name, System: n.System, Image: n.Image, VCPUs: n.VCPUs, MemoryMiB: n.MemoryMiB, Processes: n.Processes,
		Network: n.Network, Egress: n.Egress, Env: n.Env, WarmUp: n.WarmUp}
}

// progressEvery is how often the progress of a stage is told.
const progressEvery = 200 * time.Millisecond

// templateEvents sends how far the making of a template is, and what its programs write.
func templateEvents(req *runtime.TemplateRequest, e *events, gone func()) {
	var told sandbox.TemplateProgress
	var at time.Time
	req.Progress = func(p sandbox.TemplateProgress) {
		if p.Stage == told.Stage && p.Program == told.Program && time.Since(at) < progressEvery {
			return
		}
		told, at = p, time.Now()
		if e.send("progress", 0, p) != nil {
			gone()
		}
	}
	req.Stdout, req.Stderr = streamWriter{e, runtime.Stdout}, streamWriter{e, runtime.Stderr}
}

func (s *server) registerTemplates() {
	tags := []string{"templates"}
	type create struct {
		Of
		Keyed
		Accepts
		Body NewTemplate
	}
	content := jsonContent[runtime.TemplateInfo](s)
	responses := ok(http.StatusCreated, content)
	for status, r := range ok(http.StatusOK, map[string]*huma.MediaType{eventStream: eventContent(
		"progress, with stage (boot, warm-up, freeze, write, trial, finish), program, done and total in bytes; stdout and stderr of the warm-up, with text and encoding; " +
			"then result, as in the JSON answer, or error, a problem")}) {
		responses[status] = r
	}
	register(s, huma.Operation{OperationID: "create-template", Method: http.MethodPost, Path: "/v1/templates", Tags: tags,
		Summary: "Make a template, a sandbox on disk that others go on from; it is the tenant's, and stays until it is removed",
		Description: "It takes as long as a boot, the warm-up, and writing all that the sandbox has touched to disk. Meanwhile it counts as a sandbox of the session. " +
			"When the client goes before the end there is no template.",
		Responses: responses},
		func(ctx context.Context, in *create) (*huma.StreamResponse, error) {
			session, err := s.make(ctx, in.Of)
			if err != nil {
				return nil, err
			}
			return respondWith(ctx, in.Accepts, http.StatusCreated, func(ctx context.Context, e *events, gone func()) (runtime.TemplateInfo, error) {
				req := in.Body.runtime()
				req.Key = in.Key
				if e != nil {
					templateEvents(&req, e, gone)
				}
				return session.CreateTemplate(ctx, req)
			})
		})

	type list struct {
		Body struct {
			Templates []runtime.TemplateInfo `json:"templates"`
			Next      string                 `json:"next,omitempty"`
		} `nameHint:"TemplateList"`
	}
	register(s, huma.Operation{OperationID: "list-templates", Method: http.MethodGet, Path: "/v1/templates", Tags: tags,
		Summary: "The templates that the tenant may copy, its own and those that are shared, in the order of their creation"},
		func(ctx context.Context, in *struct{ Page }) (*list, error) {
			t, err := tenant(ctx)
			if err != nil {
				return nil, err
			}
			all, err := s.rt.TemplatesOf(ctx, t.ID)
			if err != nil {
				return nil, err
			}
			all, next, err := page(s.cursors, "templates", t.ID, in.Page, all, func(i runtime.TemplateInfo) string { return at(i.Created, i.ID) })
			out := &list{}
			out.Body.Templates, out.Body.Next = all, next
			return out, err
		})
	type named struct {
		Of
		Template string `path:"template" maxLength:"64" doc:"its ID or name"`
	}
	type one struct{ Body runtime.TemplateInfo }
	register(s, huma.Operation{OperationID: "get-template", Method: http.MethodGet, Path: "/v1/templates/{template}", Tags: tags,
		Summary: "One template"},
		func(ctx context.Context, in *named) (*one, error) {
			t, err := tenant(ctx)
			if err != nil {
				return nil, err
			}
			info, err := s.rt.TemplateOf(ctx, t.ID, in.Template)
			return &one{info}, err
		})
	register(s, huma.Operation{OperationID: "remove-template", Method: http.MethodDelete, Path: "/v1/templates/{template}", Tags: tags,
		Summary: "Remove a template of the tenant; sandboxes that were made of it live on"},
		func(ctx context.Context, in *named) (*struct{}, error) {
			session, err := s.make(ctx, in.Of)
			if err != nil {
				return nil, err
			}
			return nil, session.RemoveTemplate(ctx, in.Template)
		})
}
