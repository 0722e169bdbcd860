// Package agenthost serves a runtime over one driver to clients of MCP within this process: over HTTP on the
// loopback interface, with tenants and their tokens, and over a pair of pipes as `aether mcp` does. It is what
// scripted agents of the judge drive.
package agenthost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/mcp"
	"github.com/aethervm/aether/sandbox"
)

// version is what server and clients call themselves.
const version = "bench"

// Config is what a Host is opened with.
type Config struct {
	// Driver is the system. The caller closes it, after the host.
	Driver sandbox.Driver
	// Image is what every sandbox is made from.
	Image sandbox.Image
	// StateDir is as that of runtime.Config: the absolute path of a directory, which is made.
	StateDir string
	Limits   runtime.Limits
}

// Host is a runtime that is being served. Its methods may be called concurrently.
type Host struct {
	// Runtime is what is served.
	Runtime *runtime.Runtime

	url  string
	http *http.Server
	done chan error
}

// image is the one image that there is.
type image sandbox.Image

func (i image) Resolve(_ context.Context, name string) (sandbox.Image, func(), error) {
	if name != imageName && name != i.Digest {
		return sandbox.Image{}, nil, fmt.Errorf("there is no image %q", name)
	}
	return sandbox.Image(i), func() {}, nil
}

const imageName = "default"

// Open makes the runtime and begins to serve. ctx bounds the opening only.
func Open(ctx context.Context, cfg Config) (*Host, error) {
	rt, err := runtime.Open(ctx, runtime.Config{
		StateDir: cfg.StateDir, Drivers: []sandbox.Driver{cfg.Driver}, System: cfg.Driver.System(),
		Images: image(cfg.Image), DefaultImage: imageName, Limits: cfg.Limits,
	})
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, rt.Close())
	}
	h := &Host{
		Runtime: rt, url: "http://" + l.Addr().String(), done: make(chan error, 1),
		http: &http.Server{
			Handler:           mcp.Handler(mcp.HTTPConfig{Version: version, Runtime: rt}),
			ReadHeaderTimeout: time.Minute,
		},
	}
	go func() { h.done <- h.http.Serve(l) }()
	return h, nil
}

// Close ends what is going on, removes all sandboxes and closes the runtime. Clients are to be closed before.
func (h *Host) Close() error {
	err := h.http.Close()
	if served := <-h.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return errors.Join(err, h.Runtime.Close())
}

// Tenant makes a tenant and returns its token too.
func (h *Host) Tenant(ctx context.Context, name string, budget runtime.Budget) (t runtime.Tenant, token string, err error) {
	return h.Runtime.CreateTenant(ctx, runtime.TenantSpec{Name: name, Budget: budget})
}

// Connect is a client over HTTP, of the tenant that token stands for, in the session of that name.
func (h *Host) Connect(ctx context.Context, token, session string) (*Client, error) {
	return h.connect(ctx, &withHeaders{token: token, session: session})
}

func (h *Host) connect(ctx context.Context, headers *withHeaders) (*Client, error) {
	headers.under = &http.Transport{MaxIdleConnsPerHost: 4}
	t := &sdk.StreamableClientTransport{
		Endpoint: h.url, HTTPClient: &http.Client{Transport: headers}, DisableStandaloneSSE: true, MaxRetries: -1,
	}
	c, err := connect(ctx, t, headers.revision)
	if err != nil {
		headers.under.CloseIdleConnections()
		return nil, err
	}
	c.after = append(c.after, func() error { headers.under.CloseIdleConnections(); return nil })
	return c, nil
}

type withHeaders struct {
	token, session string
	accept         string // if not empty, instead of the SDK's
	revision       string // of the protocol, to ask for; the newest if empty
	under          *http.Transport
}

func (t *withHeaders) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+t.token)
	req.Header.Set("Aether-Session", t.session)
	if t.accept != "" {
		req.Header.Set("Accept", t.accept)
	}
	return t.under.RoundTrip(req)
}

// Pipe is a client over a pair of pipes, a message a line, of the runtime's own tenant.
func (h *Host) Pipe(ctx context.Context) (*Client, error) {
	tenant, err := h.Runtime.Local(ctx)
	if err != nil {
		return nil, err
	}
	session, err := h.Runtime.OpenSession(ctx, tenant.ID, runtime.SessionSpec{})
	if err != nil {
		return nil, err
	}
	server := mcp.New(mcp.Config{
		Version: version, Runtime: h.Runtime,
		Session: func(context.Context, *sdk.RequestExtra) (*runtime.Session, error) { return session, nil },
	})
	requests, send := io.Pipe()
	receive, answers := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := mcp.ServeStdio(context.WithoutCancel(ctx), server, requests, answers)
		_ = answers.Close() // what reads from it is told that there is no more
		done <- err
	}()
	c, err := connect(ctx, &sdk.IOTransport{Reader: receive, Writer: send}, "")
	if err != nil {
		_ = send.Close()
		return nil, errors.Join(err, <-done, session.Close())
	}
	c.after = append(c.after, func() error { return <-done }, session.Close)
	return c, nil
}

// connect makes a client that speaks a revision of the protocol, or the newest if that is empty.
func connect(ctx context.Context, t sdk.Transport, revision string) (*Client, error) {
	session, err := sdk.NewClient(&sdk.Implementation{Name: "aether-" + version, Version: version}, nil).
		Connect(ctx, t, &sdk.ClientSessionOptions{ProtocolVersion: revision})
	if err != nil {
		return nil, err
	}
	return &Client{session: session}, nil
}
