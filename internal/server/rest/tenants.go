package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aethervm/aether/internal/runtime"
)

// NewTenant is what a tenant is to be.
type NewTenant struct {
	Name         string               `json:"name" pattern:"^[A-Za-z0-9._-]{1,64}$"`
	Capabilities []runtime.Capability `json:"capabilities,omitempty" nullable:"false" enum:"read,exec,fork,network" doc:"all but network, if they are left out"`
	Budget       *Budget              `json:"budget,omitempty" doc:"for all its sessions together; what it does not name is not bounded. The server's own, if it is left out"`
}

// TenantToken is a tenant, and a token for it, which is told this once and not kept.
type TenantToken struct {
	Tenant Tenant `json:"tenant"`
	Token  string `json:"token"`
}

// registerTenants adds what only the owner of the server may do.
func (s *server) registerTenants() {
	tags := []string{"tenants"}
	type named struct {
		Tenant string `path:"tenant" maxLength:"64" doc:"its name"`
	}
	type token struct{ Body TenantToken }
	type one struct{ Body Tenant }
	s.registerSharing()
	type create struct{ Body NewTenant }
	register(s, huma.Operation{OperationID: "create-tenant", Method: http.MethodPost, Path: "/v1/tenants", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Make a tenant and a token for it"},
		func(ctx context.Context, in *create) (*token, error) {
			budget := s.cfg.Budget
			if in.Body.Budget != nil {
				budget = in.Body.Budget.Runtime()
			}
			t, secret, err := s.rt.CreateTenant(ctx, runtime.TenantSpec{Name: in.Body.Name, Capabilities: in.Body.Capabilities, Budget: budget})
			return &token{TenantToken{TenantOf(t), secret}}, err
		})
	type list struct {
		Body struct {
			Tenants []Tenant `json:"tenants"`
			Next    string   `json:"next,omitempty"`
		} `nameHint:"TenantList"`
	}
	register(s, huma.Operation{OperationID: "list-tenants", Method: http.MethodGet, Path: "/v1/tenants", Tags: tags,
		Summary: "All tenants, by name"},
		func(ctx context.Context, in *struct{ Page }) (*list, error) {
			tenants, err := s.rt.Tenants(ctx)
			if err != nil {
				return nil, err
			}
			tenants, next, err := page(s.cursors, "tenants", "", in.Page, tenants, func(t runtime.Tenant) string { return t.Name })
			out := &list{}
			out.Body.Tenants, out.Body.Next = make([]Tenant, 0, len(tenants)), next
			for _, t := range tenants {
				out.Body.Tenants = append(out.Body.Tenants, TenantOf(t))
			}
			return out, err
		})
	register(s, huma.Operation{OperationID: "renew-token", Method: http.MethodPost, Path: "/v1/tenants/{tenant}/token", Tags: tags,
		Summary: "Make a new token for a tenant; the one before is no longer valid"},
		func(ctx context.Context, in *named) (*token, error) {
			t, err := s.tenantByName(ctx, in.Tenant)
			if err != nil {
				return nil, err
			}
			secret, err := s.rt.NewToken(ctx, t.ID)
			return &token{TenantToken{TenantOf(t), secret}}, err
		})
	type setBudget struct {
		Tenant string `path:"tenant" maxLength:"64" doc:"its name"`
		Body   Budget
	}
	register(s, huma.Operation{OperationID: "set-budget", Method: http.MethodPut, Path: "/v1/tenants/{tenant}/budget", Tags: tags,
		Summary: "Give a tenant another budget; what it does not name is not bounded any more"},
		func(ctx context.Context, in *setBudget) (*one, error) {
			t, err := s.tenantByName(ctx, in.Tenant)
			if err != nil {
				return nil, err
			}
			t, err = s.rt.SetBudget(ctx, t.ID, in.Body.Runtime())
			return &one{TenantOf(t)}, err
		})
	register(s, huma.Operation{OperationID: "remove-tenant", Method: http.MethodDelete, Path: "/v1/tenants/{tenant}", Tags: tags,
		Summary: "Remove a tenant: its sandboxes are killed, its snapshots and templates removed"},
		func(ctx context.Context, in *named) (*struct{}, error) {
			t, err := s.tenantByName(ctx, in.Tenant)
			if err != nil {
				return nil, err
			}
			return nil, s.rt.RemoveTenant(ctx, t.ID)
		})
}

// registerSharing adds the sharing of templates.
func (s *server) registerSharing() {
	type share struct {
		Template string `path:"template" maxLength:"64" doc:"its ID or name"`
		Body     struct {
			Shared bool `json:"shared"`
		} `nameHint:"Sharing"`
	}
	type one struct{ Body runtime.TemplateInfo }
	register(s, huma.Operation{OperationID: "share-template", Method: http.MethodPut, Path: "/v1/templates/{template}/sharing", Tags: []string{"tenants"},
		Summary: "Let all tenants copy a template of the tenant, or no more; what was in its memory is in every copy"},
		func(ctx context.Context, in *share) (*one, error) {
			t, err := tenant(ctx)
			if err != nil {
				return nil, err
			}
			info, err := s.rt.ShareTemplate(ctx, t.ID, in.Template, in.Body.Shared)
			return &one{info}, err
		})
}

func (s *server) tenantByName(ctx context.Context, name string) (runtime.Tenant, error) {
	tenants, err := s.rt.Tenants(ctx)
	if err != nil {
		return runtime.Tenant{}, err
	}
	for _, t := range tenants {
		if t.Name == name {
			return t, nil
		}
	}
	return runtime.Tenant{}, refuse(runtime.CodeNotFound, "find tenant", "`aether tenant ls` lists them", "there is no tenant %q", name)
}
