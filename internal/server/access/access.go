// Package access finds out whose a request is. The surfaces that are served over HTTP share it.
package access

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/aethervm/aether/internal/runtime"
)

const (
	// SessionHeader names a session of the tenant. Sandboxes belong to it, and not to a connection.
	SessionHeader = "Aether-Session"
	// DefaultSession is the one of a request that names none.
	DefaultSession = "default"
	// TenantHeader names the tenant that the owner of the server acts for.
	TenantHeader = "Aether-Tenant"
)

// Guard lets requests through that are a tenant's. Its methods may be called concurrently.
type Guard struct {
	Runtime *runtime.Runtime
	// NoAuth takes a request for one of the local tenant, whose name no token is needed for. It must name the host
	// as the loopback interface, so that a web page whose name was made to lead here is refused.
	NoAuth bool
	// Owner takes a request without a token for one of whoever runs the server: for a Unix socket that nobody else
	// may connect to. It is for the tenant that its TenantHeader names, or the one with the name Owns, or the local
	// one.
	Owner bool
	Owns  string
	// Limited gives sessions no more than the runtime does where nothing is asked for, as NoAuth does: for an owner's
	// socket whose local tenant is also that of a listener with NoAuth, so that no session that this one opened has
	// more than whoever comes there may have.
	Limited bool
	// Views lets requests through, to GET and HEAD only, that bear a view token: for a surface in which these change
	// nothing. Their tenant may read, and no more.
	Views bool
}

type (
	tenantKey struct{}
	checkKey  struct{}
)

// Tenant is that of a request that Require let through.
func Tenant(ctx context.Context) (runtime.Tenant, bool) {
	t, ok := ctx.Value(tenantKey{}).(runtime.Tenant)
	return t, ok
}

// Check tells whether a request that Require let through would be let through still: its token may have been replaced
// meanwhile. Streams that last ask it before each part.
func Check(ctx context.Context) error {
	if check, ok := ctx.Value(checkKey{}).(func() error); ok {
		return check()
	}
	return nil
}

// Require passes on the requests of tenants, with the tenant in their context. Others are answered by refuse, which
// gets the HTTP status and the reason.
func (g Guard) Require(next http.Handler, refuse func(w http.ResponseWriter, r *http.Request, status int, err error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tenant, view, err := g.tenant(r)
		switch {
		case err == nil:
			unhurried(w, r)
			ctx := context.WithValue(r.Context(), tenantKey{}, tenant)
			ctx = context.WithValue(ctx, checkKey{}, func() error { return g.still(r, tenant) })
			if view {
				ctx = runtime.Look(ctx)
			}
			next.ServeHTTP(w, r.WithContext(ctx))
		case runtime.CodeOf(err) == runtime.CodeUnauthenticated:
			w.Header().Set("WWW-Authenticate", `Bearer realm="aether"`)
			refuse(w, r, http.StatusUnauthorized, err)
		case runtime.CodeOf(err) == runtime.CodeDenied:
			refuse(w, r, http.StatusForbidden, err)
		case runtime.CodeOf(err) == runtime.CodeNotFound:
			refuse(w, r, http.StatusNotFound, err)
		default:
			refuse(w, r, http.StatusServiceUnavailable, err)
		}
	})
}

// still is an error if a request that was of a tenant would not be its any more.
func (g Guard) still(r *http.Request, tenant runtime.Tenant) error {
	now, _, err := g.tenant(r)
	if err == nil && now.ID != tenant.ID {
		err = &runtime.Error{Code: runtime.CodeUnauthenticated, Op: "authenticate", Cause: "the token is another tenant's now", Remedy: "begin again"}
	}
	return err
}

// tenant finds whose a request is; view tells that it bears a view token.
func (g Guard) tenant(r *http.Request) (tenant runtime.Tenant, view bool, err error) {
	const op = "authenticate"
	token := Bearer(r)
	switch {
	case g.NoAuth && !Local(r):
		return tenant, false, &runtime.Error{Code: runtime.CodeDenied, Op: op, Cause: "the request names another host",
			Remedy: "name the host as localhost or by its loopback address"}
	case g.NoAuth:
		tenant, err = g.Runtime.Local(r.Context())
		return tenant, false, err
	case !g.Owner || token != "":
		tenant, err = g.Runtime.Authenticate(r.Context(), token)
		if g.Views && runtime.CodeOf(err) == runtime.CodeUnauthenticated {
			tenant, err = g.view(r, token)
			return tenant, true, err
		}
		return tenant, false, err
	}
	tenant, err = g.owned(r)
	return tenant, false, err
}

// owned is the tenant that the owner's request is for.
func (g Guard) owned(r *http.Request) (runtime.Tenant, error) {
	name := r.Header.Get(TenantHeader)
	tenants, err := g.Runtime.Tenants(r.Context())
	if err != nil {
		return runtime.Tenant{}, err
	}
	for _, t := range tenants {
		if t.Name == name || name == "" && t.Name == g.Owns {
			return t, nil
		}
	}
	if name != "" {
		return runtime.Tenant{}, &runtime.Error{Code: runtime.CodeNotFound, Op: "authenticate", Cause: "there is no tenant of that name",
			Remedy: "`aether tenant ls` lists them"}
	}
	return g.Runtime.Local(r.Context())
}

func (g Guard) view(r *http.Request, token string) (runtime.Tenant, error) {
	tenant, err := g.Runtime.View(r.Context(), token)
	if err == nil && r.Method != http.MethodGet && r.Method != http.MethodHead {
		return runtime.Tenant{}, &runtime.Error{Code: runtime.CodeDenied, Op: "authenticate", Cause: "this token only shows what there is",
			Remedy: "use a token of the tenant that is no view token"}
	}
	return tenant, err
}

// Session is what to open a session of the tenant with.
func (g Guard) Session(tenant runtime.Tenant, id string) runtime.SessionSpec {
	if id == "" {
		id = DefaultSession
	}
	return runtime.SessionSpec{ID: id, Capabilities: g.Capabilities(tenant, nil)}
}

// Capabilities are what a session of the tenant may have of those that were asked for; nil asks for all. With NoAuth and
// Limited they are within what the runtime gives where nothing is asked for: whoever comes is not whoever runs it.
func (g Guard) Capabilities(tenant runtime.Tenant, asked []runtime.Capability) []runtime.Capability {
	if asked == nil {
		asked = tenant.Capabilities
	}
	if !g.NoAuth && !g.Limited {
		return asked
	}
	within, list := g.Runtime.Capabilities(), []runtime.Capability{}
	for _, c := range asked {
		if slices.Contains(within, c) {
			list = append(list, c)
		}
	}
	return list
}

// Bearer is the bearer token of a request; empty if it has none.
func Bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// Local tells whether a request came over a Unix socket, or names the loopback interface as its host.
func Local(r *http.Request) bool {
	if at, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && at.Network() == "unix" {
		return true
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}
