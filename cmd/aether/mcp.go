package main

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/driver/all"
	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/mcp"
	"github.com/aethervm/aether/vms"
)

// outputShown is how many bytes of each output of a program a result shows, head and tail. A result is
// read by a model, both streams of it, and the rest has a handle.
const outputShown = 8 << 10

// runtimeOptions are the flags of the commands that have a runtime of their own.
type runtimeOptions struct {
	vm, image string
	net       bool
	allow     []string
	unlimited bool
	ready     int // sandboxes
	perCell   copiesPerCell
	secrets   map[string]runtime.Secret
}

func (o *runtimeOptions) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.vm, "vm", "auto", "`system` that sandboxes are made with; auto is the best ranked one of this host")
	flags.StringVar(&o.image, "image", image.DefaultName, "`image` of a sandbox that asks for none")
	flags.BoolVar(&o.net, "net", false, "let sandboxes that ask for it reach the network")
	flags.StringArrayVar(&o.allow, "allow", nil, "with --net: what sandboxes may ask to reach, a `rule` such as \"pypi.org:443\"; private networks only if named (repeatable; default \"*\": names and public addresses)")
	flags.BoolVar(&o.unlimited, "net-unlimited", false, "with --net: let them ask for anything, with Docker this host's own network too")
	o.perCell.add(flags, "with AetherVM, copies of a running sandbox")
	completeSystems(cmd, "vm")
}

// limits is what sandboxes may ask to reach.
func (o runtimeOptions) limits() (runtime.EgressLimit, error) {
	switch {
	case !o.net && (o.unlimited || len(o.allow) > 0):
		return runtime.EgressLimit{}, usageError("add --net", "--allow and --net-unlimited say nothing without --net")
	case o.unlimited && len(o.allow) > 0:
		return runtime.EgressLimit{}, usageError("leave out one of them", "--net-unlimited allows more than --allow")
	}
	return runtime.EgressLimit{Allow: o.allow, Unlimited: o.unlimited}, nil
}

func newMCP(a *app) *cobra.Command {
	var o runtimeOptions
	cmd := &cobra.Command{
		Use:   "mcp [--vm auto|NAME] [--image NAME] [--net]",
		Short: "Serve sandboxes to one agent, over MCP on standard input and output",
		Long: `Serve the Model Context Protocol on standard input and output, for the one client that
has started this process: an agent's host. Its sandboxes are removed when standard
input ends, and on a signal. Logs go to standard error.

A client's configuration (docs/MCP.md):

  {"mcpServers": {"aether": {"command": "aether", "args": ["mcp"]}}}

"aether tools" shows the tools. "aether serve" serves many clients, over HTTP.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.mcp(cmd.Context(), o) },
	}
	o.flags(cmd)
	return cmd
}

func (a *app) mcp(ctx context.Context, o runtimeOptions) (err error) {
	rt, closeAll, err := a.openRuntime(ctx, o, "")
	if err != nil {
		return err
	}
	defer closeAll(&err)
	tenant, err := rt.Local(ctx)
	if err != nil {
		return err
	}
	session, err := rt.OpenSession(ctx, tenant.ID, runtime.SessionSpec{Capabilities: o.capabilities()})
	if err != nil {
		return err
	}
	server := mcp.New(mcp.Config{
		Version: currentVersion().String(), Runtime: rt, Log: a.logger(),
		Session: func(context.Context, *sdk.RequestExtra) (*runtime.Session, error) { return session, nil },
	})
	return mcp.ServeStdio(ctx, server, a.in, a.out)
}

func (o runtimeOptions) capabilities() []runtime.Capability {
	capabilities := runtime.DefaultCapabilities()
	if o.net {
		capabilities = append(capabilities, runtime.CanNetwork)
	}
	return capabilities
}

// openRuntime opens a runtime over the drivers of all systems. closeAll closes everything and adds to the
// error that its argument points to. An empty stateDir is a private one that goes with the runtime.
func (a *app) openRuntime(ctx context.Context, o runtimeOptions, stateDir string) (rt *runtime.Runtime, closeAll func(*error), err error) {
	if o.vm != "" && o.vm != "auto" {
		if _, err := vms.Parse(o.vm); err != nil {
			return nil, nil, unknownName(err)
		}
	}
	egress, err := o.limits()
	if err != nil {
		return nil, nil, err
	}
	store, err := image.Default()
	if err != nil {
		return nil, nil, err
	}
	if err := o.perCell.check(); err != nil {
		return nil, nil, err
	}
	f := a.openFleet(all.Options{CopiesPerCell: int(o.perCell)})
	rt, err = runtime.Open(ctx, runtime.Config{
		StateDir: stateDir, Drivers: f.drivers, Images: runtime.StoreImages(store), DefaultImage: o.image, System: o.vm,
		Limits: runtime.Limits{OutputShown: outputShown}, Capabilities: o.capabilities(), Egress: egress, Secrets: o.secrets,
		Pool: runtime.PoolConfig{Sandboxes: o.ready}, Log: a.logger(),
		HostTemplates: stateDir == "", // whoever runs a server is not who asks it
	})
	if err != nil {
		f.close(&err)
		return nil, nil, fromRuntime(err)
	}
	a.tellRecovered(rt.Recovered())
	return rt, func(err *error) {
		if closeErr := rt.Close(); closeErr != nil && *err == nil {
			*err = failed(closeErr, "run `aether sweep`", "close the sandboxes: %v", closeErr)
		}
		f.close(err)
	}, nil
}

// serveState is where `aether serve` keeps what it must not forget, unless it is told otherwise.
func serveState() (string, error) {
	state, err := hostdir.State()
	return filepath.Join(state, "serve"), err
}
