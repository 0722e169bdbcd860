package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/server/rest"
)

func newList(a *app) *cobra.Command {
	var o clientOptions
	var asJSON, quiet, flat bool
	cmd := &cobra.Command{
		Use:     "ls [SANDBOX] [flags]",
		Aliases: []string{"ps", "list"},
		Short:   "List sandboxes, or the processes of one",
		Long: `List the sandboxes of the tenant as trees: each below the one that it is a copy of, those that
are of no other in the order of their creation. Or list the background processes of one sandbox.
"aether ps" is the same.

  aether ps
  aether ls SANDBOX
  aether ls -q | xargs -r aether kill

Columns of sandboxes:
  memory     that it may use, in MiB
  processes  background processes that run
  ends in    when it will be killed if nothing happens: idle for too long, or at the end of --ttl;
             empty if never
  from       the sandbox or snapshot that it is a copy of

Columns of processes:
  state           running, how it ended ("exit 0", a signal, "timed out"), or why it could not go on
  stdout, stderr  bytes written so far` + needsServer,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.asking(func(c *client.Client) error {
				if len(args) == 1 {
					return a.listProcesses(cmd.Context(), c, args[0], asJSON, quiet)
				}
				return a.listSandboxes(cmd.Context(), c, asJSON, quiet, flat)
			})
		},
	}
	o.register(cmd)
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print IDs only")
	cmd.Flags().BoolVar(&flat, "flat", false, "all in the order of their creation, without trees")
	return cmd
}

func (a *app) listSandboxes(ctx context.Context, c *client.Client, asJSON, quiet, flat bool) error {
	list, err := c.Sandboxes(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return a.printJSON(map[string]any{"sandboxes": list})
	}
	t := table{head: []string{"sandbox", "system", "state", "image", "memory", "age", "processes", "ends in", "from", "session"}, right: map[int]bool{4: true, 6: true}}
	rows := asTrees(list)
	if flat || quiet {
		rows = asList(list)
	}
	for _, row := range rows {
		sb := row.Sandbox
		if quiet {
			if err := a.printf("%s\n", sb.ID); err != nil {
				return err
			}
			continue
		}
		from := sb.Parent
		if from == "" {
			from = sb.Snapshot
		}
		t.add(row.branch+sb.ID, sb.System, string(sb.State), sb.Image, strconv.Itoa(sb.MemoryMiB), age(sb.Created), strconv.Itoa(sb.Processes), endsIn(sb), from, sb.Session)
	}
	if quiet {
		return nil
	}
	return t.write(a.out)
}

func (a *app) listProcesses(ctx context.Context, c *client.Client, sandboxID string, asJSON, quiet bool) error {
	list, err := c.Processes(ctx, sandboxID)
	if err != nil {
		return err
	}
	if asJSON {
		return a.printJSON(map[string]any{"processes": list})
	}
	t := table{head: []string{"process", "state", "age", "stdout", "stderr", "command"}, right: map[int]bool{3: true, 4: true}}
	for _, p := range list {
		if quiet {
			if err := a.printf("%s\n", p.ID); err != nil {
				return err
			}
			continue
		}
		t.add(p.ID, processState(p), age(p.Started), strconv.FormatInt(p.StdoutBytes, 10), strconv.FormatInt(p.StderrBytes, 10), p.Command)
	}
	if quiet {
		return nil
	}
	return t.write(a.out)
}

func processState(p rest.Process) string {
	switch {
	case p.Running:
		return "running"
	case p.TimedOut:
		return "timed out"
	case p.Signal != "":
		return p.Signal
	case p.ExitCode != nil:
		return fmt.Sprintf("exit %d", *p.ExitCode)
	case p.Error != nil:
		return string(p.Error.Code)
	}
	return "ended"
}

func age(t time.Time) string { return time.Since(t).Round(time.Second).String() }

// endsIn is how long the sandbox has if nothing happens to it.
func endsIn(sb rest.Sandbox) string {
	first := sb.KillIn
	if first == nil || sb.ExpiresIn != nil && *sb.ExpiresIn < *first {
		first = sb.ExpiresIn
	}
	if first == nil {
		return ""
	}
	return (time.Duration(*first) * time.Second).String()
}
