package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/server/rest"
)

func newFork(a *app) *cobra.Command {
	var o clientOptions
	var n int
	var asJSON bool
	var key string
	cmd := &cobra.Command{
		Use:   "fork [-n N] [--json] SANDBOX [-- COMMAND [ARG...]]",
		Short: "Copy a running sandbox, and run a command in each copy",
		Long: `Copy a running sandbox N times, all or none: the copies go on from where it is. Where its
system cannot copy processes, they have its files. With a command, each copy runs it, and
AETHER_FORK in its environment is the number of the copy, from 0.

  aether fork -n 3 SANDBOX
  aether fork -n 2 SANDBOX -- sh -c 'echo copy $AETHER_FORK'

It prints the IDs of the copies, and what their commands wrote. Copies stay. The exit code
is 5 if a command failed in some, and 1 if in all.` + needsServer,
		Args: needSandbox,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.asking(func(c *client.Client) error {
				forked, err := forkOnce(cmd.Context(), c, args, n, key)
				if err != nil {
					return err
				}
				if asJSON {
					if err := a.printJSON(forked); err != nil {
						return err
					}
				} else if err := a.printForked(forked); err != nil {
					return err
				}
				return forkOutcome(forked)
			})
		},
	}
	o.register(cmd)
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.IntVarP(&n, "copies", "n", 1, "how many `copies`")
	flags.StringVar(&key, "key", "", "idempotency `key`: the second call with it answers as the first did")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// needSandbox checks a command line of a sandbox and, behind "--", a command.
func needSandbox(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usageError("`"+cmd.UseLine()+"`; `aether ls` lists the sandboxes", "%s: the sandbox is missing", cmd.CommandPath())
	}
	if len(args) > 1 && (args[1] != "--" || len(args) == 2) {
		return usageError("`"+cmd.UseLine()+"`: flags before the sandbox, the command behind \"--\"", "%s: %q after the sandbox", cmd.CommandPath(), args[1])
	}
	return nil
}

// command is what stands behind the sandbox and "--"; nil if there is nothing.
func command(args []string) []string {
	if len(args) < 3 {
		return nil
	}
	return args[2:]
}

func forkOnce(ctx context.Context, c *client.Client, args []string, n int, key string) (rest.Forked, error) {
	fork := rest.Fork{Count: n}
	if run := command(args); run != nil {
		fork.Runs = []rest.Run{{Args: run}}
	}
	return c.Fork(ctx, args[0], fork, key)
}

func (a *app) printForked(f rest.Forked) error {
	for _, child := range f.Children {
		if child.Run == nil && child.Error == nil {
			if err := a.printf("%s\n", child.Sandbox.ID); err != nil {
				return err
			}
			continue
		}
		if err := a.printf("%s  %s\n", child.Sandbox.ID, forkEnd(child)); err != nil {
			return err
		}
		if child.Run != nil {
			if err := a.printf("%s", indent(child.Run.Stdout)+indent(child.Run.Stderr)); err != nil {
				return err
			}
		}
	}
	return nil
}

func forkEnd(child rest.ForkedChild) string {
	switch {
	case child.Error != nil:
		return oneLine(child.Error.Cause)
	case child.Run.TimedOut:
		return "timed out"
	case child.Run.Signal != "":
		return child.Run.Signal
	case child.Run.ExitCode != nil:
		return fmt.Sprintf("exit %d", *child.Run.ExitCode)
	}
	return ""
}

// succeeded tells whether the command of a copy has ended well.
func succeeded(child rest.ForkedChild) bool {
	return child.Error == nil && child.Run != nil && child.Run.ExitCode != nil && *child.Run.ExitCode == 0
}

// forkOutcome is the error of commands that failed.
func forkOutcome(f rest.Forked) error {
	bad := 0
	for _, child := range f.Children {
		if child.Error != nil || child.Run != nil && !succeeded(child) {
			bad++
		}
	}
	switch {
	case bad == 0:
		return nil
	case bad == len(f.Children):
		return failed(nil, "", "the command failed in all copies")
	}
	return &failure{code: exitPartly, kind: "partly", message: fmt.Sprintf("the command failed in %d of %d copies", bad, len(f.Children))}
}

// indent is text of a sandbox beneath a line of aether's own.
func indent(s string) string {
	if s == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\n  ") + "\n"
}
