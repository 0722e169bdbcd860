package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/mcp"
)

// lastReplies is how long clients have to take the answers that are ready when the server ends.
const lastReplies = 2 * time.Second

type serveOptions struct {
	runtimeOptions
	listen, state string
	tenants       []string
	noAuth        bool
	cert, key     string
	drain         time.Duration
}

func newServe(a *app) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Serve sandboxes to many agents, over MCP on HTTP",
		Long: `Serve the Model Context Protocol over Streamable HTTP at /mcp, and /healthz and /readyz.

Every request needs the bearer token of a tenant. --tenant NAME=FILE makes a tenant and
writes its token to FILE, which only you can read; a tenant that is there, and whose
token FILE has, is left as it is. Without --tenant there is one, "default", whose token
is in the file "token" of the state directory.

  aether serve --listen 127.0.0.1:7070 --tenant team=/root/team.token

It listens on the loopback interface or a Unix socket; other addresses need a
certificate. On SIGTERM or SIGINT it refuses new work, waits for what is going on
(--drain), and removes all sandboxes.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context(), o) },
	}
	o.flags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&o.listen, "listen", "127.0.0.1:7070", "`address`: HOST:PORT or unix:PATH")
	flags.StringVar(&o.state, "state", "", "`directory` of its state (default: serve/ beside the images)")
	flags.StringArrayVar(&o.tenants, "tenant", nil, "make a tenant, its token in a file: `NAME=FILE` (repeatable)")
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
	tenants, err := o.tenantFiles()
	if err != nil {
		return err
	}
	listener, err := o.listener(ctx) // before anything slower: an address in use is noticed at once
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()

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
	server := &http.Server{
		Handler:           a.handler(rt, o.noAuth),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	a.notice("serving MCP at %s", o.url(listener))
	select {
	case err := <-served:
		return failed(err, "", "serve at %s: %v", o.listen, err)
	case <-ctx.Done():
	}
	a.drain(rt, server, o.drain)
	return context.Cause(ctx)
}

func (a *app) handler(rt *runtime.Runtime, noAuth bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/mcp", mcp.Handler(mcp.HTTPConfig{
		Version: currentVersion().String(), Runtime: rt, NoAuth: noAuth, Log: a.logger(),
	}))
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

// drain lets what is going on come to its end, in at most limit, and ends the rest, whose callers hear of it.
// Then it ends all connections: a client of an old revision keeps one open to hear of nothing.
func (a *app) drain(rt *runtime.Runtime, server *http.Server, limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := rt.Drain(ctx); err != nil {
		a.logger().Warn("not everything has come to its end", "error", err)
	}
	if err := rt.Close(); err != nil {
		a.logger().Warn("close the sandboxes", "error", err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), lastReplies)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		_ = server.Close()
	}
}

// listener listens where it was asked to. A network other than the loopback needs TLS.
func (o serveOptions) listener(ctx context.Context) (net.Listener, error) {
	if (o.cert == "") != (o.key == "") {
		return nil, usageError("give both --tls-cert and --tls-key", "a certificate without its key, or a key without its certificate")
	}
	var certificates []tls.Certificate
	if o.cert != "" {
		c, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			return nil, failed(err, "", "read the certificate: %v", err)
		}
		certificates = append(certificates, c)
	}
	l, err := o.listenPlain(ctx, certificates != nil)
	if err != nil || certificates == nil {
		return l, err
	}
	return tls.NewListener(l, &tls.Config{Certificates: certificates, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}), nil
}

func (o serveOptions) listenPlain(ctx context.Context, withTLS bool) (net.Listener, error) {
	if path, ok := strings.CutPrefix(o.listen, "unix:"); ok {
		return listenUnix(ctx, path)
	}
	addr, err := net.ResolveTCPAddr("tcp", o.listen)
	if err != nil {
		return nil, usageError("give HOST:PORT or unix:PATH", "--listen %s: %v", o.listen, err)
	}
	if !addr.IP.IsLoopback() {
		switch {
		case o.noAuth:
			return nil, usageError("listen on 127.0.0.1 or a Unix socket, or use tokens", "%s is not the loopback interface, and --no-auth would let everybody in", o.listen)
		case !withTLS:
			return nil, usageError("give --tls-cert and --tls-key, or listen on 127.0.0.1 or a Unix socket",
				"%s is not the loopback interface: tokens would cross the network in the clear", o.listen)
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr.String())
	if err != nil {
		return nil, failed(err, "choose another address with --listen", "%v", err)
	}
	return l, nil
}

// listenUnix listens on a socket that only the caller may connect to. One that a dead process has left is
// replaced.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		if conn, dialErr := (&net.Dialer{}).DialContext(ctx, "unix", path); dialErr == nil {
			_ = conn.Close()
			return nil, failed(err, "choose another path with --listen", "another process listens on %s", path)
		}
		if info, statErr := os.Lstat(path); statErr == nil && info.Mode().Type() == fs.ModeSocket {
			_ = os.Remove(path)
			l, err = (&net.ListenConfig{}).Listen(ctx, "unix", path)
		}
	}
	if err != nil {
		return nil, failed(err, "choose another path with --listen", "%v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

func (o serveOptions) url(l net.Listener) string {
	switch {
	case strings.HasPrefix(o.listen, "unix:"):
		return o.listen + " (/mcp)"
	case o.cert != "":
		return "https://" + l.Addr().String() + "/mcp"
	}
	return "http://" + l.Addr().String() + "/mcp"
}

type tenantFile struct{ name, file string }

func (o serveOptions) tenantFiles() ([]tenantFile, error) {
	if o.noAuth {
		if len(o.tenants) > 0 {
			return nil, usageError("leave out one of them", "--no-auth needs no --tenant")
		}
		return nil, nil
	}
	if len(o.tenants) == 0 {
		return []tenantFile{{"default", filepath.Join(o.state, "token")}}, nil
	}
	var list []tenantFile
	for _, t := range o.tenants {
		name, file, ok := strings.Cut(t, "=")
		if !ok || name == "" || file == "" {
			return nil, usageError("give NAME=FILE", "--tenant %s", t)
		}
		list = append(list, tenantFile{name, file})
	}
	return list, nil
}

// giveToken makes a tenant unless it is there, and sees to it that file has a token of it.
func (o serveOptions) giveToken(ctx context.Context, rt *runtime.Runtime, name, file string) error {
	tenants, err := rt.Tenants(ctx)
	if err != nil {
		return err
	}
	var token string
	for _, t := range tenants {
		if t.Name != name {
			continue
		}
		if old, err := os.ReadFile(file); err == nil {
			if owner, err := rt.Authenticate(ctx, strings.TrimSpace(string(old))); err == nil && owner.ID == t.ID {
				return nil
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if token, err = rt.NewToken(ctx, t.ID); err != nil {
			return err
		}
	}
	if token == "" {
		if _, token, err = rt.CreateTenant(ctx, runtime.TenantSpec{Name: name, Capabilities: o.capabilities()}); err != nil {
			return err
		}
	}
	return writeSecret(file, token+"\n")
}

// writeSecret writes a file that only its owner can read, whole or not at all.
func writeSecret(file, text string) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // its mode is 0600
	if err != nil {
		return failed(err, "choose a directory that exists and that you may write to", "write %s: %v", file, err)
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return failed(err, "", "write %s: %v", file, err)
	}
	return nil
}
