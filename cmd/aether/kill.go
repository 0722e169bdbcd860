package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
)

// processPrefix begins the IDs of processes.
const processPrefix = "pr"

func newKill(a *app) *cobra.Command {
	var o clientOptions
	var signal string
	cmd := &cobra.Command{
		Use:   "kill SANDBOX|PROCESS... [flags]",
		Short: "Kill sandboxes, or send a signal to processes",
		Long: `Kill sandboxes with all that runs in them, or send a signal, KILL by default, to background
processes and their descendants. A sandbox that is gone already is no error.

  aether kill SANDBOX
  aether kill PROCESS --signal TERM

Of several, one that cannot be ended holds up no other.` + needsServer,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError("`aether ls` lists the sandboxes", "%s: name at least one", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if i := slices.IndexFunc(args, func(id string) bool { return !strings.HasPrefix(id, processPrefix) }); i >= 0 && cmd.Flags().Changed("signal") {
				return usageError("leave it out to kill the sandbox; `aether ls "+args[i]+"` lists its processes", "%s: --signal is for processes, and %s is none", cmd.CommandPath(), args[i])
			}
			return o.asking(func(c *client.Client) error {
				return a.forEach(args, func(id string) error {
					if !strings.HasPrefix(id, processPrefix) {
						return c.Kill(cmd.Context(), id)
					}
					_, err := c.Signal(cmd.Context(), id, signal)
					return err
				})
			})
		},
	}
	o.register(cmd)
	cmd.Flags().StringVarP(&signal, "signal", "s", "KILL", "`signal` for processes")
	return cmd
}
