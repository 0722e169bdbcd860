package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/server/rest"
)

func newBranch(a *app) *cobra.Command {
	var o clientOptions
	var n int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "branch [-n N] [--json] SANDBOX -- COMMAND [ARG...]",
		Short: "Try a command in several copies of a sandbox, and keep one in which it succeeded",
		Long: `Copy a running sandbox N times, run the command in each copy at the same time, keep the
first copy, by number, in which it ended with exit code 0, and kill the others. The original is
as it was. AETHER_FORK in the command's environment is the number of the copy, from 0.

  best=$(aether branch -n 3 SANDBOX -- sh -c 'cd /work && ./try $AETHER_FORK && make test')
  aether exec $best -- cat /work/result

It prints the ID of the copy that is kept. If the command succeeds nowhere, no copy is kept,
what the commands wrote goes to standard error, and the exit code is 1.` + needsServer,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := needSandbox(cmd, args); err != nil {
				return err
			}
			if command(args) == nil {
				return usageError("`"+cmd.UseLine()+"`; `aether fork` makes copies without one", "%s: the command is missing", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.asking(func(c *client.Client) error { return a.branch(cmd.Context(), c, args, n, asJSON) })
		},
	}
	o.register(cmd)
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.IntVarP(&n, "copies", "n", 3, "how many `copies`")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) branch(ctx context.Context, c *client.Client, args []string, n int, asJSON bool) error {
	forked, err := forkOnce(ctx, c, args, n, "")
	if err != nil {
		return err
	}
	var kept *rest.ForkedChild
	var lost []string
	for i := range forked.Children {
		if child := &forked.Children[i]; kept == nil && succeeded(*child) {
			kept = child
		} else {
			lost = append(lost, child.Sandbox.ID)
		}
	}
	if err := killAll(context.WithoutCancel(ctx), c, lost, ""); err != nil {
		return err
	}
	if kept == nil {
		for i, child := range forked.Children {
			a.notice("copy %d: %s", i, forkEnd(child))
			if child.Run != nil {
				a.notice("%s", indent(child.Run.Stdout)+indent(child.Run.Stderr))
			}
		}
		return failed(nil, "", "the command succeeded in none of %d copies", len(forked.Children))
	}
	if asJSON {
		return a.printJSON(kept)
	}
	return a.printf("%s\n", kept.Sandbox.ID)
}
