package main

import (
	"context"
	"errors"
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
  aether kill PROCESS --signal TERM` + needsServer,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError("`aether ls` lists the sandboxes", "%s: name at least one", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.asking(func(c *client.Client) error { return killAll(cmd.Context(), c, args, signal) })
		},
	}
	o.register(cmd)
	cmd.Flags().StringVarP(&signal, "signal", "s", "KILL", "`signal` for processes")
	return cmd
}

func killAll(ctx context.Context, c *client.Client, ids []string, signal string) error {
	var errs []error
	for _, id := range ids {
		if strings.HasPrefix(id, processPrefix) {
			_, err := c.Signal(ctx, id, signal)
			errs = append(errs, err)
			continue
		}
		errs = append(errs, c.Kill(ctx, id))
	}
	return errors.Join(errs...)
}
