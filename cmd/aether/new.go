package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/server/rest"
	"github.com/aethervm/aether/sandbox"
)

type newOptions struct {
	clientOptions
	network      networkOptions
	template     string
	vm, image    string
	memory, cpus int
	env, labels  []string
	secrets      []string
	ttl, idle    time.Duration
	key          string
	json         bool
}

func newNew(a *app) *cobra.Command {
	var o newOptions
	cmd := &cobra.Command{
		Use:   "new [flags]",
		Short: "Create a sandbox that stays",
		Long: `Create a sandbox and print its ID. It stays until it is killed, until --ttl, or until
nothing was done in it for 30 minutes (--idle).

  sb=$(aether new --memory 512)
  aether exec $sb -- python3 -c 'print(6*7)'
  aether cp report.csv $sb:/tmp/
  aether kill $sb` + needsServer,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.create(cmd.Context(), o) },
	}
	o.register(cmd)
	o.network.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&o.vm, "vm", "", "`system` to make it with, or \"auto\" (default: what the server was started with)")
	flags.StringVar(&o.template, "template", "", "make a copy of this `template` of the server, by name or ID; it says what system, image, size and network are")
	flags.StringVar(&o.image, "image", "", "`image`, by name or digest (default: what the server was started with)")
	flags.IntVar(&o.memory, "memory", 0, "memory in `MiB` (default 256)")
	flags.IntVar(&o.cpus, "vcpus", 0, "virtual CPUs (default 1)")
	flags.StringArrayVarP(&o.env, "env", "e", nil, "environment of every program, `KEY=VALUE`; KEY alone takes the caller's value (repeatable)")
	flags.StringArrayVar(&o.secrets, "secret", nil, "use a credential that the server has, and not see it: its `ID`; ID,fork for forks too (repeatable)")
	flags.StringArrayVar(&o.labels, "label", nil, "a label of your own, `KEY=VALUE` (repeatable)")
	flags.DurationVar(&o.ttl, "ttl", 0, "kill it after so long, whatever goes on in it; 0 is never")
	flags.DurationVar(&o.idle, "idle", 0, "kill it when nothing was done for so long (default 30m); negative is never")
	flags.StringVar(&o.key, "key", "", "idempotency `key`: the second call with it answers as the first did")
	jsonFlag(cmd, &o.json)
	completeSystems(cmd, "vm")
	return cmd
}

func (a *app) create(ctx context.Context, o newOptions) error {
	if err := o.network.check(); err != nil {
		return err
	}
	secrets, err := parseSecretUses(o.secrets)
	if err != nil {
		return err
	}
	labels := map[string]string{}
	for _, l := range o.labels {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" {
			return usageError("give KEY=VALUE", "--label %s", l)
		}
		labels[key] = value
	}
	idle := rest.Idle{KillS: o.idle.Seconds()}
	if o.idle < 0 {
		idle.KillS = -1
	}
	return o.asking(func(c *client.Client) error {
		sb, err := c.Create(ctx, rest.Spec{Template: o.template, System: o.vm, Image: o.image, VCPUs: o.cpus, MemoryMiB: o.memory, Network: sandbox.Network(o.network.net),
			Egress: o.network.allow, Secrets: secrets, Env: callersEnv(o.env), TTLS: o.ttl.Seconds(), Idle: idle, Labels: labels}, o.key)
		if err != nil {
			return err
		}
		if a.verbose {
			a.notice("%s, %s", sb.System, sb.Why)
		}
		if o.json {
			return a.printJSON(sb)
		}
		return a.printf("%s\n", sb.ID)
	})
}
