package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

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
	l, err := listenPrivate(ctx, path)
	if errors.Is(err, syscall.EADDRINUSE) {
		conn, dialErr := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if dialErr == nil {
			_ = conn.Close()
			return nil, failed(err, "choose another path with --listen", "another process listens on %s", path)
		}
		// Only this says that nobody listens: one who does may be too busy, or another user's.
		if info, statErr := os.Lstat(path); errors.Is(dialErr, syscall.ECONNREFUSED) && statErr == nil && info.Mode().Type() == fs.ModeSocket {
			_ = os.Remove(path)
			l, err = listenPrivate(ctx, path)
		}
	}
	if err != nil {
		return nil, failed(err, "choose another path with --listen", "%v", err)
	}
	return l, nil
}

// umask is the process's, which is changed by one at a time.
var umask sync.Mutex

// listenPrivate makes a socket with mode 0600 from its first moment on. Files that others make meanwhile get no more.
func listenPrivate(ctx context.Context, path string) (net.Listener, error) {
	umask.Lock()
	defer umask.Unlock()
	defer syscall.Umask(syscall.Umask(0o177))
	return (&net.ListenConfig{}).Listen(ctx, "unix", path)
}

// noSocket is what --socket takes for none.
const noSocket = "none"

// ownerListener listens on a Unix socket for whoever runs the server. There may be one server with the socket that the
// command line looks for; another one goes without it, and says so.
func (a *app) ownerListener(ctx context.Context, o serveOptions) (net.Listener, error) {
	path := o.socket
	switch path {
	case noSocket:
		return nil, nil
	case "":
		var err error
		if path, err = ownerSocket(); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
	}
	l, err := listenUnix(ctx, path)
	if err != nil && o.socket == "" && ctx.Err() == nil {
		a.notice("without a socket for the command line (--socket): %v", err)
		return nil, nil
	}
	return l, err
}

// url is where the server is, without a path.
func (o serveOptions) url(l net.Listener) string {
	switch {
	case strings.HasPrefix(o.listen, "unix:"):
		return o.listen
	case o.cert != "":
		return "https://" + l.Addr().String()
	}
	return "http://" + l.Addr().String()
}
