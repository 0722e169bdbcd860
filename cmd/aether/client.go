package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
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

// envServer is the variable that names a server.
const envServer = "AETHER_SERVER"

// named is the address that was given, and what has given it; both are empty if none was.
func (o clientOptions) named() (address, by string) {
	if o.server != "" {
		return o.server, "--server"
	}
	if address := os.Getenv(envServer); address != "" {
		return address, envServer
	}
	return "", ""
}

// connect makes a client. Whether the server is there shows when it is asked.
func (o clientOptions) connect() (*client.Client, error) {
	address, _ := o.named()
	if address == "" {
		socket, err := ownerSocket()
		if err != nil {
			return nil, err
		}
		address = "unix:" + socket
	}
	if o.tenant != "" && !strings.HasPrefix(address, "unix:") {
		return nil, usageError("leave it out: the token in AETHER_TOKEN says whose the request is", "--tenant is for the socket of the server's owner, not for %s", address)
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
	return o.fromServer(f(c))
}

// forEach does f to each ID, one after the other, and goes on after a failure, unless nothing answers any more. It returns
// the last failure and tells the others at once.
func (a *app) forEach(ids []string, f func(id string) error) error {
	var last error
	for _, id := range ids {
		err := f(id)
		if err == nil {
			continue
		}
		if last != nil {
			a.notice("%v", inCommands(fromRuntime(last)))
		}
		last = err
		if _, answered := errors.AsType[*runtime.Error](err); !answered {
			break
		}
	}
	return last
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
func (o clientOptions) fromServer(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if _, ok := errors.AsType[*failure](err); ok { // it has one, whatever led to it
		return err
	}
	if client.Unreachable(err) {
		remedy := "start one: `aether serve &`; `aether run` and `aether exec -- COMMAND` need none"
		if address, by := o.named(); address != "" {
			remedy = "start one there, or name another: " + by + " says " + address
		}
		if dial, ok := errors.AsType[*net.OpError](err); ok {
			err = dial // without the request, which the user has not written
		}
		return unavailable(remedy, "no server is there: %v", err)
	}
	if e, ok := errors.AsType[*runtime.Error](err); ok && e.Code == runtime.CodeCannotRun {
		err = errors.Join(err, sandbox.ErrCannotRun)
	}
	return inCommands(fromRuntime(err))
}

// remedies are those of the runtime that name its operations, in words for whoever has the commands.
var remedies = map[string]string{
	"list shows what there is":                                   "`aether ls` lists the sandboxes, `aether ls SANDBOX` the processes of one",
	"list shows the sandboxes of this session; create makes one": "`aether ls` lists them, `aether new` makes one",
	"list shows the processes of this session":                   "`aether ls SANDBOX` lists the processes of a sandbox",
	"list shows the snapshots there are":                         "give its ID: `aether snapshot ls` lists them",
	"create another sandbox":                                     "`aether new` makes another",
	"give a token that is valid":                                 "set AETHER_TOKEN to a tenant's; `aether tenant add` and `aether tenant token` on the server's host print one",
	"poll it for its end":                                        "`aether ls SANDBOX` tells how it ended",
	"list it: GET .../entries":                                   "`aether cp -r` copies directories",
}

// inCommands gives a failure the remedy that commands have for it.
func inCommands(err error) error {
	if f, ok := errors.AsType[*failure](err); ok {
		if remedy := remedies[f.remedy]; remedy != "" {
			f.remedy = remedy
		}
	}
	return err
}
