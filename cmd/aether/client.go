package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/sandbox"
)

// clientOptions are the flags of the commands that ask a server.
type clientOptions struct {
	server, tenant, session string
}

func (o *clientOptions) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.server, "server", "", "`address` of the server: http://HOST:PORT, https://HOST:PORT or unix:PATH (default: $AETHER_SERVER, else the one on this host)")
	flags.StringVar(&o.tenant, "tenant", "", "`name` of the tenant to act for, on this host")
	flags.StringVar(&o.session, "session", "", "`name` of a session (default: \"default\" for what is made, all for what is there)")
}

// help of the commands that ask a server ends with it.
const needsServer = `

It asks the server of this host, which "aether serve &" starts, over the socket of its
owner. With AETHER_SERVER=http://HOST:PORT and AETHER_TOKEN=TOKEN it asks another.`

// connect makes a client. Whether the server is there shows when it is asked.
func (o clientOptions) connect() (*client.Client, error) {
	address := o.server
	if address == "" {
		address = os.Getenv("AETHER_SERVER")
	}
	if address == "" {
		socket, err := ownerSocket()
		if err != nil {
			return nil, err
		}
		address = "unix:" + socket
	}
	c, err := client.New(address, client.WithToken(os.Getenv("AETHER_TOKEN")), client.WithTenant(o.tenant), client.WithSession(o.session))
	if err != nil {
		return nil, usageError("give an address such as http://127.0.0.1:7070", "%v", err)
	}
	return c, nil
}

// asking runs f with a client of the server.
func (o clientOptions) asking(f func(*client.Client) error) error {
	c, err := o.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	return fromServer(f(c))
}

// ownerSocket is where `aether serve` listens for whoever runs it. Its directory is the owner's alone.
func ownerSocket() (string, error) {
	dir, err := hostdir.RunOf("serve")
	if err != nil {
		return "", err
	}
	if info, err := os.Lstat(dir); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || !info.IsDir() || info.Mode().Perm()&0o077 != 0) {
			return "", failed(nil, "remove it, or set AETHER_RUN to a directory of your own", "%s is not a directory of yours alone", dir)
		}
	}
	return filepath.Join(dir, "socket"), nil
}

// fromServer gives an error of a client its exit code.
func fromServer(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if client.Unreachable(err) {
		f := unavailable("start one: `aether serve &`; `aether run` and `aether exec -- COMMAND` need none", "no server is there: %v", err)
		return f
	}
	if e, ok := errors.AsType[*runtime.Error](err); ok && e.Code == runtime.CodeCannotRun {
		err = errors.Join(err, sandbox.ErrCannotRun)
	}
	return fromRuntime(err)
}
