package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
)

type forkOptions struct {
	templateWhere
	n       int
	asJSON  bool
	key     string
	timeout time.Duration
	keep    bool
}

func newFork(a *app) *cobra.Command {
	var o forkOptions
	cmd := &cobra.Command{
		Use:   "fork SANDBOX|TEMPLATE [-n N] [flags] [-- COMMAND [ARG...]]",
		Short: "Copy a running sandbox or a template, and run a command in each copy",
		Long: `Copy a running sandbox N times, all or none: the copies go on from where it is. Where its
system cannot copy processes, they have its files. With a command, each copy runs it, and
AETHER_FORK in its environment is the number of the copy, from 0. It prints the IDs of the
copies, and what their commands wrote. Copies stay.

  aether fork SANDBOX -n 3
  aether fork SANDBOX -n 2 -- sh -c 'echo copy $AETHER_FORK'

Or copy a template N times, run the command in each copy, and remove the copies: see "aether
template". The table has a line for each copy, with the end of what its command wrote;
--json has up to 64 KiB of each stream, under "copies", where that of a sandbox's copies has
what the server says, under "children". All copies are made before any command
runs, or none; with --keep-going each is made by itself, and one that cannot be made holds up
no other. Ctrl-C removes them all.

  aether template create py --warm 'python3 -c "import json"'
  aether fork py -n 100 -- python3 -c 'import uuid; print(uuid.uuid4())'

What looks like a sandbox's ID (sb and ten letters or digits) is one. The exit code is 5 if
some copies failed, and 1 if all did. A template is the server's where one is used, and this
host's otherwise or with --local ("aether template --help"). For a sandbox:` + needsServer,
		Args: needSubject,
		RunE: func(cmd *cobra.Command, args []string) error {
			subject, program := splitProgram(cmd, args)
			if !runtime.IsSandboxID(subject) {
				return a.forkTemplate(cmd, subject, program, o)
			}
			if o.local {
				return usageError("leave it out", "%s: --local is for copies of a template; sandboxes are a server's", cmd.CommandPath())
			}
			if o.keep {
				return usageError("leave it out", "%s: --keep-going is for copies of a template; those of a sandbox are made all or none", cmd.CommandPath())
			}
			if o.perCell != 0 {
				return usageError("leave it out", "%s: --copies-per-cell is for copies of a template; a server is told when it is started", cmd.CommandPath())
			}
			return o.asking(func(c *client.Client) error {
				forked, err := o.once(cmd.Context(), c, subject, program)
				if cmd.Context().Err() != nil && program != nil {
					a.notice("copies that were made stay; `aether ps` shows them")
				}
				if err != nil {
					return err
				}
				if o.asJSON {
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
	o.perCell.add(flags, "of a template of this host")
	flags.IntVarP(&o.n, "copies", "n", 1, "how many `copies`")
	flags.DurationVar(&o.timeout, "timeout", 0, "kill the command in a copy after so long (\"10s\", \"2m\"); 0 is never")
	flags.BoolVar(&o.keep, "keep-going", false, "of a template: make as many copies as can be made")
	flags.StringVar(&o.key, "key", "", "of a sandbox: idempotency `key`: the second call with it answers as the first did")
	jsonFlag(cmd, &o.asJSON)
	return cmd
}

// needSubject checks a command line of one name and, behind "--", a command.
func needSubject(cmd *cobra.Command, args []string) error {
	before := cmd.ArgsLenAtDash()
	if before < 0 {
		before = len(args)
	}
	switch {
	case before == 0:
		return usageError("`"+cmd.UseLine()+"`; `aether ls` lists the sandboxes", "%s: the sandbox is missing", cmd.CommandPath())
	case before > 1:
		return usageError("`"+cmd.UseLine()+"`: the command stands behind \"--\"", "%s: %q after the name", cmd.CommandPath(), args[1])
	case before == len(args) && cmd.ArgsLenAtDash() >= 0:
		return usageError("`"+cmd.UseLine()+"`", "%s: the command is missing behind \"--\"", cmd.CommandPath())
	}
	return nil
}

// splitProgram parts a command line that needSubject has passed: the name, and the command behind "--", nil if there is
// none.
func splitProgram(cmd *cobra.Command, args []string) (subject string, program []string) {
	if at := cmd.ArgsLenAtDash(); at >= 0 {
		return args[0], args[at:]
	}
	return args[0], nil
}

func (o forkOptions) once(ctx context.Context, c *client.Client, sandboxID string, program []string) (rest.Forked, error) {
	fork := rest.Fork{Count: o.n}
	if program != nil {
		fork.Runs = []rest.Run{{Args: program, TimeoutS: o.timeout.Seconds()}}
	}
	return c.Fork(ctx, sandboxID, fork, o.key)
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
			if err := a.printf("%s", a.shown(indent(child.Run.Stdout)+indent(child.Run.Stderr))); err != nil {
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

// shown is text of a sandbox for standard output: on a terminal without what could steer it.
func (a *app) shown(s string) string {
	if terminalOf(a.out) != nil {
		return terminalText(s)
	}
	return s
}

// indent is text of a sandbox beneath a line of aether's own.
func indent(s string) string {
	if s == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\n  ") + "\n"
}
