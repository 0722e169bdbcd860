package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/access"
	"github.com/aethervm/aether/internal/server/console"
	"github.com/aethervm/aether/internal/server/mcp"
	"github.com/aethervm/aether/internal/server/metrics"
	"github.com/aethervm/aether/internal/server/rest"
)

// lastReplies is how long clients have to take the answers that are ready when the server ends.
const lastReplies = 2 * time.Second

// cutAfter is how long the sandboxes may take to end before connections are cut.
const cutAfter = 10 * time.Second

type serveOptions struct {
	runtimeOptions
	listen, state, socket string
	tenants, views        []string
	secretTexts           []string
	budget                budgetFlag
	noAuth                bool
	cert, key             string
	drain                 time.Duration
}

func newServe(a *app) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Serve sandboxes to many agents, over MCP and REST, and to aether's own commands",
		Long: `Serve sandboxes over HTTP: the Model Context Protocol at /mcp, the REST API at /v1 (described
at /v1/openapi.json), a web console at /console/, metrics at /metrics, /healthz and /readyz.

Every request needs the bearer token of a tenant. --tenant NAME=FILE makes a tenant and
writes its token to FILE, which only you can read; a tenant that is there, and whose
token FILE has, is left as it is. Without --tenant there is one, "default", whose token
is in the file "token" of the state directory. "aether tenant" makes more.

  aether serve --listen 127.0.0.1:7070 --tenant team=/root/team.token

--secret gives sandboxes that ask for it by its id ("aether new --secret ID") a credential
that they never see: aether puts it into their requests to one host, over HTTPS, on the
way. Every tenant that has the network may ask; to which host it goes is said here only.
The rest of its value is as for "aether run --secret". The file is read for each request.

  aether serve --net --secret id=github,host=api.github.com,src=/root/github.token

It listens on the loopback interface or a Unix socket; other addresses need a
certificate. Besides, it listens on a Unix socket that only you may connect to, without a
token: "aether new", "aether ls" and the like find it there.

On SIGTERM or SIGINT it refuses new work, waits for what is going on (--drain), and
removes all sandboxes.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context(), o) },
	}
	o.flags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&o.listen, "listen", "127.0.0.1:7070", "`address`: HOST:PORT or unix:PATH")
	flags.StringVar(&o.state, "state", "", "`directory` of its state (default: serve/ beside the images)")
	flags.StringArrayVar(&o.tenants, "tenant", nil, "make a tenant, its token in a file: `NAME=FILE` (repeatable)")
	flags.StringArrayVar(&o.secretTexts, "secret", nil, "a credential that sandboxes may use and do not see: `id=NAME,"+secretSyntax+"` (repeatable)")
	flags.StringArrayVar(&o.views, "view-token", nil, "write a token that only shows what a tenant has to a file: `NAME=FILE` (repeatable)")
	o.budget.add(flags, "budget of all sessions together of a tenant that is made without one, here or later",
		"100 sandboxes, three quarters of the host's memory, 1000 snapshots, 100 templates, and half of the state directory's disk for these")
	flags.IntVar(&o.ready, "ready", 0, "make up to `N` sandboxes before they are asked for, as demand says")
	flags.StringVar(&o.socket, "socket", "", "`path` of the socket for this host's commands, or \"none\" (default: the one that they look for)")
	flags.BoolVar(&o.noAuth, "no-auth", false, "ask for no token: whoever reaches the address is let in")
	flags.StringVar(&o.cert, "tls-cert", "", "`file` with the certificate chain, PEM")
	flags.StringVar(&o.key, "tls-key", "", "`file` with its private key, PEM")
	flags.DurationVar(&o.drain, "drain", 30*time.Second, "how long to wait for what is going on when it ends")
	return cmd
}

func (a *app) serve(ctx context.Context, o serveOptions) (err error) {
	if o.state == "" {
		if o.state, err = serveState(); err != nil {
			return err
		}
	}
	if o.state, err = filepath.Abs(o.state); err != nil {
		return err
	}
	o.budget.complete(o.state)
	tenants, err := o.tenantFiles()
	if err != nil {
		return err
	}
	if o.secrets, err = parseSecrets(o.secretTexts, true); err != nil {
		return err
	}
	if len(o.secrets) > 0 && !o.net {
		return usageError("add --net", "--secret is of no use without --net")
	}
	views, err := nameFiles("--view-token", o.views)
	if err != nil {
		return err
	}
	listener, err := o.listener(ctx) // before anything slower: an address in use is noticed at once
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	owner, err := a.ownerListener(ctx, o)
	if err != nil {
		return err
	}
	if owner != nil {
		defer func() { _ = owner.Close() }()
	}

	rt, closeAll, err := a.openRuntime(ctx, o.runtimeOptions, o.state)
	if err != nil {
		return err
	}
	defer closeAll(&err)
	for _, t := range tenants {
		if err := o.giveToken(ctx, rt, t.name, t.file); err != nil {
			return err
		}
	}
	for _, t := range views {
		if err := giveViewToken(ctx, rt, t.name, t.file); err != nil {
			return err
		}
	}
	operator, err := o.operatorToken()
	if err != nil {
		return err
	}
	shared := a.sharedHandlers(rt, o, operator)
	guard := access.Guard{Runtime: rt, NoAuth: o.noAuth, Views: true}
	servers := []*http.Server{newServer(a.handler(shared, guard, o.budget.budget))}
	served := make(chan error, 2)
	go func(s *http.Server) { served <- s.Serve(listener) }(servers[0]) // servers changes below
	if owner != nil {
		guard := access.Guard{Runtime: rt, Owner: true, Views: true, Limited: o.noAuth}
		if len(o.tenants) == 0 && !o.noAuth {
			guard.Owns = defaultTenant
		}
		servers = append(servers, newServer(a.handler(shared, guard, o.budget.budget)))
		go func() { served <- servers[1].Serve(owner) }()
	}
	url := o.url(listener)
	a.notice("serving MCP at %s/mcp, REST at %s/v1, a console at %s/console/", url, url, url)
	if owner != nil {
		a.notice("this host's commands reach it at unix:%s", owner.Addr())
	}
	select {
	case err := <-served:
		return failed(err, "", "serve at %s: %v", o.listen, err)
	case <-ctx.Done():
	}
	a.drain(rt, servers, o.drain)
	return context.Cause(ctx)
}

func newServer(h http.Handler) *http.Server {
	return &http.Server{Handler: access.Hurry(h), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
}

// sharedHandlers are those that are the same wherever a request comes from.
func (a *app) sharedHandlers(rt *runtime.Runtime, o serveOptions, operator string) *http.ServeMux {
	version := currentVersion().String()
	mux := http.NewServeMux()
	mux.Handle("/mcp", mcp.Handler(mcp.HTTPConfig{Version: version, Runtime: rt, NoAuth: o.noAuth, Log: a.logger()}))
	mux.Handle("/metrics", metrics.Handler(metrics.Config{Version: version, Runtime: rt, Token: operator, NoAuth: o.noAuth, Log: a.logger()}))
	mux.Handle(console.Path, console.Handler())
	mux.Handle("GET /{$}", http.RedirectHandler(console.Path, http.StatusFound)) // whoever opens the address in a browser
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if rt.Status().Draining {
			http.Error(w, "shutting down", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux
}

// handler is what one listener serves: the API knows its callers by the guard.
func (a *app) handler(shared http.Handler, guard access.Guard, budget runtime.Budget) http.Handler {
	mux := http.NewServeMux()
	api := rest.Handler(rest.Config{Version: currentVersion().String(), Guard: guard, Budget: budget, Log: a.logger()})
	mux.Handle("/v1", api)
	mux.Handle("/v1/", api)
	mux.Handle("/", shared)
	return mux
}

// drain lets what is going on come to its end, in at most limit, and ends the rest, whose callers hear of it.
// Then it ends all connections: a client of an old revision keeps one open to hear of nothing.
func (a *app) drain(rt *runtime.Runtime, servers []*http.Server, limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := rt.Drain(ctx); err != nil {
		a.logger().Warn("not everything has come to its end", "error", err)
	}
	// An operation that writes to a client that takes nothing ends with the connection, if with nothing else.
	cut := time.AfterFunc(cutAfter, func() {
		for _, server := range servers {
			_ = server.Close()
		}
	})
	if err := rt.Close(); err != nil {
		a.logger().Warn("close the sandboxes", "error", err)
	}
	cut.Stop()
	ctx, cancel = context.WithTimeout(context.Background(), lastReplies)
	defer cancel()
	for _, server := range servers {
		if err := server.Shutdown(ctx); err != nil {
			_ = server.Close()
		}
	}
}
