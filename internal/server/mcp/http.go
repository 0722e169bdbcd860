package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/access"
)

const (
	// sessionIdle is how long a session of the protocol, which holds no sandboxes, is kept without a request.
	sessionIdle = time.Hour

	// requestSize bounds a request, in bytes: a file that is written is in it.
	requestSize = 16 << 20
)

// HTTPConfig is what Handler needs.
type HTTPConfig struct {
	Version string
	Runtime *runtime.Runtime
	// NoAuth takes every request for one of the local tenant, whose name no token is needed for.
	NoAuth bool
	Log    *slog.Logger
}

// Handler serves MCP over Streamable HTTP, both revisions at one address: the header Mcp-Protocol-Version
// tells them apart. Every request needs a bearer token of a tenant.
//
// In revision 2026-07-28 the end of a request's connection cancels its call. In 2025-11-25 it does not,
// since a client may come back for the answer; there a notification cancels.
func Handler(cfg HTTPConfig) http.Handler {
	return cfg.handler(New(cfg.server()))
}

// server is what the servers behind the handler are made with.
func (cfg HTTPConfig) server() Config {
	return Config{Version: cfg.Version, Runtime: cfg.Runtime, Session: cfg.session, Log: cfg.Log}
}

func (cfg HTTPConfig) handler(server *sdk.Server) http.Handler {
	log := sdkLog(cfg.Log)
	get := func(*http.Request) *sdk.Server { return server }
	stateless := newDirect(cfg.server(), tools(), sdk.NewStreamableHTTPHandler(get, &sdk.StreamableHTTPOptions{
		Stateless: true, PropagateRequestCancellation: true, Logger: log, MaxRequestBodyBytes: requestSize,
	}))
	stateful := sdk.NewStreamableHTTPHandler(get, &sdk.StreamableHTTPOptions{
		SessionTimeout: sessionIdle, Logger: log, MaxRequestBodyBytes: requestSize,
	})
	revisions := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Revisions are dates, so that text order is their order.
		if r.Header.Get("Mcp-Protocol-Version") >= revisionStateless {
			stateless.ServeHTTP(w, r)
			return
		}
		stateful.ServeHTTP(w, r)
	})
	return http.NewCrossOriginProtection().Handler(cfg.authenticated(revisions))
}

func (cfg HTTPConfig) guard() access.Guard {
	return access.Guard{Runtime: cfg.Runtime, NoAuth: cfg.NoAuth}
}

// authenticated lets requests through that have a tenant's token, or with NoAuth all that name this host. They may take
// their time.
func (cfg HTTPConfig) authenticated(next http.Handler) http.Handler {
	if cfg.NoAuth {
		return cfg.guard().Require(next, refuse)
	}
	// The SDK's own check puts the tenant where it looks for it: a session of the protocol is then its
	// tenant's alone. It has nothing left to find out.
	next = auth.RequireBearerToken(func(ctx context.Context, _ string, _ *http.Request) (*auth.TokenInfo, error) {
		tenant, ok := access.Tenant(ctx)
		if !ok {
			return nil, auth.ErrInvalidToken
		}
		return &auth.TokenInfo{UserID: tenant.ID, Extra: map[string]any{"tenant": tenant}}, nil
	}, &auth.RequireBearerTokenOptions{AllowMissingExpiration: true})(next)
	return cfg.guard().Require(next, refuse)
}

// refuse answers with an error as JSON.
func refuse(w http.ResponseWriter, _ *http.Request, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(failed{asError(err)}) // the client may be gone
}

// session is the session of whoever sent a request.
func (cfg HTTPConfig) session(ctx context.Context, extra *sdk.RequestExtra) (*runtime.Session, error) {
	tenant, err := cfg.tenant(ctx, extra)
	if err != nil {
		return nil, err
	}
	id := ""
	if extra != nil {
		id = extra.Header.Get(access.SessionHeader)
	}
	return cfg.Runtime.OpenSession(ctx, tenant.ID, cfg.guard().Session(tenant, id))
}

func (cfg HTTPConfig) tenant(ctx context.Context, extra *sdk.RequestExtra) (runtime.Tenant, error) {
	if cfg.NoAuth {
		return cfg.Runtime.Local(ctx)
	}
	if extra != nil && extra.TokenInfo != nil {
		if tenant, ok := extra.TokenInfo.Extra["tenant"].(runtime.Tenant); ok {
			return tenant, nil
		}
	}
	return runtime.Tenant{}, &runtime.Error{Code: runtime.CodeUnauthenticated, Cause: "the request has no tenant",
		Remedy: "send a token", Err: errors.New("a request came past the check of tokens")}
}
