package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
)

// budgetFlag is a budget as a flag: sandboxes=16,memory_mib=8192,window=1h.
type budgetFlag struct {
	budget runtime.Budget
	given  bool
}

// add adds --budget, and tells what it is, and without it.
func (b *budgetFlag) add(flags *pflag.FlagSet, what, without string) {
	flags.Var(b, "budget", what+", such as sandboxes=16,memory_mib=8192,kept_bytes=20000000000; of what is kept also snapshots, templates; with window=1h also sandbox_seconds, vcpu_seconds, output_bytes, egress_bytes; what it does not name is not bounded, and with \"none\" nothing is (default: "+without+")")
	flags.Lookup("budget").DefValue = "" // it depends on the host
}

// complete makes it what a server with that state directory gives tenants, unless it is given.
func (b *budgetFlag) complete(state string) {
	if !b.given {
		b.budget = defaultBudget(state)
	}
}

func (b *budgetFlag) Type() string { return "budget" }

func (b *budgetFlag) String() string { return budgetText(b.budget) }

// Set parses what a user gives.
func (b *budgetFlag) Set(text string) error {
	*b = budgetFlag{given: true}
	if text == "none" {
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return fmt.Errorf("%q is not NAME=NUMBER", part)
		}
		if name == "window" {
			d, err := time.ParseDuration(value)
			if err != nil || d < 0 {
				return fmt.Errorf("window=%s: want a duration such as 1h", value)
			}
			b.budget.Window = d
			continue
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("%s=%s: want a number that is not negative", name, value)
		}
		to := b.budget.Bound(runtime.Resource(name))
		if to == nil {
			return fmt.Errorf("%q is none of sandboxes, memory_mib, sandbox_seconds, vcpu_seconds, output_bytes, egress_bytes, snapshots, templates, kept_bytes, window", name)
		}
		*to = n
	}
	return nil
}

func budgetText(b runtime.Budget) string {
	var parts []string
	for _, r := range runtime.Resources() {
		if n := b.Of(r); n != 0 {
			parts = append(parts, fmt.Sprintf("%s=%d", r, n))
		}
	}
	if b.Window != 0 {
		parts = append(parts, "window="+b.Window.String())
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ",")
}

func newTenant(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tenant",
		Short: "Add, list and remove the tenants of a server, and renew their tokens",
		Long: `A tenant is whoever a token stands for: its sandboxes and snapshots are its own, and its budget
bounds what all its sessions use. Tokens are kept as hashes: one is printed once, when it is
made.

  aether tenant add team --budget sandboxes=16,memory_mib=8192,kept_bytes=20000000000
  aether tenant ls
  aether tenant budget team sandboxes=32,memory_mib=16384,kept_bytes=40000000000
  aether tenant token team
  aether tenant rm team

It asks the server of this host over the socket of its owner. If none runs, it does the same
in the server's state directory.`,
		Args: commandArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, sub := range []*cobra.Command{newTenantAdd(a), newTenantList(a), newTenantToken(a), newTenantBudget(a), newTenantRemove(a)} {
		sub.DisableFlagsInUseLine = true
		cmd.AddCommand(sub)
	}
	return cmd
}

// tenants is what the commands do, on a server or in a state directory.
type tenants interface {
	CreateTenant(context.Context, rest.NewTenant) (rest.TenantToken, error)
	Tenants(context.Context) ([]rest.Tenant, error)
	NewToken(ctx context.Context, name string) (rest.TenantToken, error)
	SetBudget(ctx context.Context, name string, b rest.Budget) (rest.Tenant, error)
	RemoveTenant(ctx context.Context, name string) error
}

// onTenants runs f on the server of this host or, if none runs, on the state directory.
func (a *app) onTenants(ctx context.Context, state string, f func(tenants) error) (err error) {
	var o clientOptions
	if address, _ := o.named(); address != "" && !strings.HasPrefix(address, "unix:") {
		return usageError("run it on the server's host, without "+envServer,
			"%s is %s, but tenants are kept over the socket of a server's owner only", envServer, address)
	}
	c, err := o.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	if state == "" {
		if _, err := c.Whoami(ctx); err == nil || !client.Unreachable(err) {
			return o.fromServer(f(c))
		}
		if state, err = serveState(); err != nil {
			return err
		}
	}
	rt, closeAll, err := a.openRuntime(ctx, runtimeOptions{}, state)
	if err != nil {
		return fromRuntime(err)
	}
	defer closeAll(&err)
	return fromRuntime(f(localTenants{rt, state}))
}

func tenantState(cmd *cobra.Command, state *string) {
	cmd.Flags().StringVar(state, "state", "", "`directory` of a server that does not run (default: that of `aether serve`)")
}

func newTenantAdd(a *app) *cobra.Command {
	var state string
	var net, asJSON bool
	var budget budgetFlag
	cmd := &cobra.Command{
		Use:   "add NAME [flags]",
		Short: "Make a tenant, and print its token",
		Long: `Make a tenant, and print its token, which is shown this one time.

  aether tenant add team --budget sandboxes=16,memory_mib=8192,kept_bytes=20000000000

A budget that is given bounds what it names, and nothing else: one without kept_bytes does not
bound what the tenant keeps on disk.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onTenants(cmd.Context(), state, func(t tenants) error {
				tenant := rest.NewTenant{Name: args[0], Capabilities: runtimeOptions{net: net}.capabilities()}
				if budget.given { // else whoever has the state directory knows its disk
					b := rest.BudgetOf(budget.budget)
					tenant.Budget = &b
				}
				made, err := t.CreateTenant(cmd.Context(), tenant)
				return a.printToken(made, asJSON, err)
			})
		},
	}
	tenantState(cmd, &state)
	cmd.Flags().BoolVar(&net, "net", false, "its sandboxes may reach the network, if they ask for it")
	budget.add(cmd.Flags(), "budget of all its sessions together", "what the server gives, see \"aether serve --help\"")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) printToken(t rest.TenantToken, asJSON bool, err error) error {
	if err != nil {
		return err
	}
	if asJSON {
		return a.printJSON(t)
	}
	return a.printf("%s\n", t.Token)
}

func newTenantToken(a *app) *cobra.Command {
	var state string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "token NAME [flags]",
		Short: "Make a new token for a tenant, and print it; the one before is no longer valid",
		Long: `Make a new token for a tenant, and print it. The one before is no longer valid: streams that
it has opened end within a quarter of a minute; programs that it runs go on.

  aether tenant token team`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onTenants(cmd.Context(), state, func(t tenants) error {
				made, err := t.NewToken(cmd.Context(), args[0])
				return a.printToken(made, asJSON, err)
			})
		},
	}
	tenantState(cmd, &state)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newTenantBudget(a *app) *cobra.Command {
	var state string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "budget NAME BUDGET [flags]",
		Short: "Give a tenant another budget, such as sandboxes=16,memory_mib=8192",
		Long: `Give a tenant another budget. What it does not name is not bounded any more. What is there
already is not ended for it, nor removed.

  aether tenant budget team sandboxes=32,memory_mib=16384,snapshots=50,kept_bytes=20000000000

snapshots, templates and kept_bytes bound what the tenant keeps on disk. What several snapshots
share counts once, and once more as the template that it is of, while that is there. While one
is made, as much as its sandbox has memory counts.`,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var b budgetFlag
			if err := b.Set(args[1]); err != nil {
				return usageError("`"+cmd.UseLine()+"`", "%v", err)
			}
			return a.onTenants(cmd.Context(), state, func(t tenants) error {
				changed, err := t.SetBudget(cmd.Context(), args[0], rest.BudgetOf(b.budget))
				if err != nil || !asJSON {
					return err
				}
				return a.printJSON(changed)
			})
		},
	}
	tenantState(cmd, &state)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newTenantRemove(a *app) *cobra.Command {
	var state string
	cmd := &cobra.Command{
		Use:   "rm NAME [flags]",
		Short: "Remove a tenant: its sandboxes are killed, its snapshots removed",
		Long: `Remove a tenant. Its sandboxes are killed, its snapshots removed, and its tokens are no longer
valid.

  aether tenant rm team`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onTenants(cmd.Context(), state, func(t tenants) error { return t.RemoveTenant(cmd.Context(), args[0]) })
		},
	}
	tenantState(cmd, &state)
	return cmd
}

func newTenantList(a *app) *cobra.Command {
	var state string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls [flags]",
		Short: "List the tenants",
		Long: `List the tenants, with what each may do and its budget.

  aether tenant ls --json

Columns:
  capabilities  what its sessions may do: read, exec, fork, network
  budget        what all its sandboxes together may use ("aether tenant add --help")`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.onTenants(cmd.Context(), state, func(t tenants) error {
				list, err := t.Tenants(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(map[string]any{"tenants": list})
				}
				shown := table{head: []string{"tenant", "capabilities", "budget", "created"}}
				for _, tenant := range list {
					var can []string
					for _, c := range tenant.Capabilities {
						can = append(can, string(c))
					}
					shown.add(tenant.Name, strings.Join(can, ","), budgetText(tenant.Budget.Runtime()), tenant.Created.Format(time.DateOnly))
				}
				return shown.write(a.out)
			})
		},
	}
	tenantState(cmd, &state)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// localTenants is a state directory that no server has open.
type localTenants struct {
	rt    *runtime.Runtime
	state string
}

func (l localTenants) CreateTenant(ctx context.Context, t rest.NewTenant) (rest.TenantToken, error) {
	budget := budgetFlag{given: t.Budget != nil}
	if budget.given {
		budget.budget = t.Budget.Runtime()
	}
	budget.complete(l.state)
	made, token, err := l.rt.CreateTenant(ctx, runtime.TenantSpec{Name: t.Name, Capabilities: t.Capabilities, Budget: budget.budget})
	return rest.TenantToken{Tenant: rest.TenantOf(made), Token: token}, err
}

func (l localTenants) Tenants(ctx context.Context) ([]rest.Tenant, error) {
	list, err := l.rt.Tenants(ctx)
	shown := make([]rest.Tenant, 0, len(list))
	for _, t := range list {
		shown = append(shown, rest.TenantOf(t))
	}
	return shown, err
}

func (l localTenants) named(ctx context.Context, name string) (runtime.Tenant, error) {
	list, err := l.rt.Tenants(ctx)
	if err != nil {
		return runtime.Tenant{}, err
	}
	if i := slices.IndexFunc(list, func(t runtime.Tenant) bool { return t.Name == name }); i >= 0 {
		return list[i], nil
	}
	return runtime.Tenant{}, notFound(nil, "`aether tenant ls` lists them", "there is no tenant %q", name)
}

func (l localTenants) NewToken(ctx context.Context, name string) (rest.TenantToken, error) {
	t, err := l.named(ctx, name)
	if err != nil {
		return rest.TenantToken{}, err
	}
	token, err := l.rt.NewToken(ctx, t.ID)
	return rest.TenantToken{Tenant: rest.TenantOf(t), Token: token}, err
}

func (l localTenants) SetBudget(ctx context.Context, name string, b rest.Budget) (rest.Tenant, error) {
	t, err := l.named(ctx, name)
	if err == nil {
		t, err = l.rt.SetBudget(ctx, t.ID, b.Runtime())
	}
	return rest.TenantOf(t), err
}

func (l localTenants) RemoveTenant(ctx context.Context, name string) error {
	t, err := l.named(ctx, name)
	if err != nil {
		return err
	}
	return l.rt.RemoveTenant(ctx, t.ID)
}
