package docker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-connections/sockets"
	apisystem "github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"

	"github.com/aethervm/aether/sandbox"
)

const (
	// answerTimeout bounds the wait for an engine to say that it is there.
	answerTimeout = 5 * time.Second
	// undoTimeout is how long the engine may take to finish, or to undo, what a caller has given up.
	undoTimeout = 60 * time.Second

	startRemedy = "start an engine with `make peers`, or set DOCKER_HOST to the socket of one"
)

// engine is a connection to a Docker Engine.
type engine struct {
	cli  *client.Client
	pool *http.Transport
	path string // of its socket
	info apisystem.Info

	mu     sync.Mutex
	images map[string]string // image IDs by digest of the sandbox.Image
}

// findEngine connects to the first engine that answers.
func findEngine(ctx context.Context, opts Options) (*engine, error) {
	var tried []string
	for _, host := range candidates(opts) {
		eng, err := dial(ctx, host)
		if err == nil {
			return eng, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		tried = append(tried, fmt.Sprintf("%s: %v", host, err))
	}
	remedy := startRemedy
	if strings.Contains(strings.Join(tried, " "), "permission denied") {
		remedy = "run as root or as a member of the group that owns the socket"
	}
	return nil, &sandbox.Error{Op: "connect", System: system, Err: sandbox.ErrUnavailable,
		Detail: "no Docker Engine answers: " + strings.Join(tried, "; "), Remedy: remedy}
}

// candidates lists addresses of engines in the order in which they are tried. What the user has
// named is the only one.
func candidates(opts Options) []string {
	if opts.Host != "" {
		return []string{opts.Host}
	}
	if host := os.Getenv(client.EnvOverrideHost); host != "" {
		return []string{host}
	}
	return []string{ownHost, client.DefaultDockerHost}
}

// ownHost is the engine that scripts/peers-docker starts. It belongs to the machine, so processes with
// a run directory of their own find it too.
const ownHost = "unix:///run/aether-docker/docker.sock"

// dial connects to the engine at host, settles the version of the API, and reads what it can do.
func dial(ctx context.Context, host string) (*engine, error) {
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		return nil, errors.New("not a Unix socket; only an engine on this host can mount the guest agent")
	}
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	pool := &http.Transport{
		// Enough for a burst of creations not to reconnect at each call.
		MaxIdleConnsPerHost: 32,
		IdleConnTimeout:     30 * time.Second,
	}
	if err := sockets.ConfigureTransport(pool, "unix", path); err != nil {
		return nil, err
	}
	cli, err := client.New(
		client.WithHost(host), // before the next, which it would want to change
		client.WithHTTPClient(&http.Client{Transport: &meter{next: pool}, CheckRedirect: client.CheckRedirect}),
		client.WithAPIVersionFromEnv(),
	)
	if err != nil {
		return nil, err
	}
	eng := &engine{cli: cli, pool: pool, path: path, images: map[string]string{}}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if _, err := cli.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		eng.close()
		return nil, err
	}
	info, err := cli.Info(ctx, client.InfoOptions{})
	if err != nil {
		eng.close()
		return nil, err
	}
	eng.info = info.Info
	return eng, nil
}

func (e *engine) close() { e.pool.CloseIdleConnections() }

// runtime is the name of the runtime that containers get.
func (e *engine) runtime(opts Options) string {
	if opts.Runtime != "" {
		return opts.Runtime
	}
	return e.info.DefaultRuntime
}

// sheltered returns a context for a call that changes something: it outlives ctx by undoTimeout.
// The engine does not stop working on a request whose client has gone, and its answer is needed to
// undo what it does.
func sheltered(ctx context.Context) (context.Context, context.CancelFunc) {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(undoTimeout, cancel)
		context.AfterFunc(inner, func() { timer.Stop() })
	})
	return inner, func() { stop(); cancel() }
}
