package runtime

import (
	"context"
	"slices"
)

// A view token shows what a tenant has, and changes nothing. Authenticate does not know it, so that a surface lets
// nobody in by it that does not tell the two apart: it is the surface that must keep whoever bears it to reading, since
// sessions that are open may do what they were opened for.

// NewViewToken makes a token that only shows a tenant; the former one is no longer valid.
func (r *Runtime) NewViewToken(_ context.Context, tenantID string) (token string, err error) {
	c := r.call("new view token")
	c.tenant = tenantID
	defer c.end(&err)
	if c.refused != nil {
		return "", c.refused
	}
	token, digest := newToken()
	if _, err := r.changeTenant(c.op, tenantID, func(t *tenantRecord) { t.Views = []string{digest} }); err != nil {
		return "", err
	}
	return token, nil
}

// View finds the tenant of a view token. Its capabilities are those of the token: to read, if the tenant may.
func (r *Runtime) View(_ context.Context, token string) (Tenant, error) {
	digest := digestOf(token)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tenants {
		if slices.Contains(t.Views, digest) {
			view := t.public()
			view.Capabilities = slices.DeleteFunc(view.Capabilities, func(c Capability) bool { return c != CanRead })
			return view, nil
		}
	}
	return Tenant{}, refuse(CodeUnauthenticated, "authenticate", "give a token that is valid", "the token is unknown")
}
