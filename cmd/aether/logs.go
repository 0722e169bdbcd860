package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
)

func newLogs(a *app) *cobra.Command {
	var o clientOptions
	var follow, asJSON, egress bool
	cmd := &cobra.Command{
		Use:   "logs [-f] PROCESS|SANDBOX [flags]",
		Short: "Show what a background process has written, or where a sandbox was not let",
		Long: `Show what a background process has written: its standard output there, its standard error
here. Of a sandbox it is the process that was started last. 4 MiB of each stream are kept; of
more, the middle is dropped, and that is said. With -f it goes on until the process ends;
Ctrl-C ends the looking, not the process.

  pr=$(aether exec -d SANDBOX -- make all)
  aether logs -f $pr

With --egress it shows where a sandbox wanted to and was not let, and what its secrets were used
for: by destination, or by host, method and answer, how often, and when first and last. The
number of entries is bounded, the latest stay; a copy begins with none. With -f each entry is a
line, again when it changes, until the sandbox is gone. It is for systems whose network ends in
aether (aethervm); others keep no record. "aether run --egress" shows the same at its end.

  aether logs --egress SANDBOX
  aether logs -f --egress SANDBOX --json` + needsServer,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if egress && strings.HasPrefix(args[0], processPrefix) {
				return usageError("give the ID of its sandbox; `aether ls` lists them", "%s is a process, and a network is its sandbox's", args[0])
			}
			return o.asking(func(c *client.Client) error {
				switch {
				case egress && follow:
					return a.followEgress(cmd.Context(), c, args[0], asJSON)
				case egress:
					return a.egressLog(cmd.Context(), c, args[0], asJSON)
				}
				id, err := processOf(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				if follow && !asJSON {
					_, err := c.Follow(cmd.Context(), id, a.out, a.err, a.noteSkipped)
					return err
				}
				return a.logs(cmd.Context(), c, id, asJSON)
			})
		},
	}
	o.register(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the process ends, or the sandbox")
	cmd.Flags().BoolVar(&egress, "egress", false, "show what the sandbox's network refused, and what its secrets were used for")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// processOf is the process that an argument names: itself, or the last one of a sandbox.
func processOf(ctx context.Context, c *client.Client, arg string) (string, error) {
	if strings.HasPrefix(arg, processPrefix) {
		return arg, nil
	}
	list, err := c.Processes(ctx, arg)
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return "", notFound(nil, "start one: `aether exec -d "+arg+" -- COMMAND`", "sandbox %s has no background process", arg)
	}
	return list[len(list)-1].ID, nil
}

func (a *app) noteSkipped(s rest.Skipped) { a.notice("%d bytes of %s are not kept", s.Bytes, s.Stream) }

// logs prints what there is now.
func (a *app) logs(ctx context.Context, c *client.Client, id string, asJSON bool) error {
	var stdout, stderr int64
	var whole struct {
		runtime.ProcessInfo
		Stdout string `json:"stdout"`
		Stderr string `json:"stderr"`
	}
	var limit [2]int64 // what there was when it began: a process may write faster than it is read
	for first := true; ; first = false {
		res, err := c.Poll(ctx, id, stdout, stderr, 0)
		if err != nil {
			return err
		}
		if first {
			limit = [2]int64{res.Stdout.Total, res.Stderr.Total}
		}
		for _, part := range []struct {
			stream runtime.Stream
			chunk  runtime.OutputChunk
		}{{runtime.Stdout, res.Stdout}, {runtime.Stderr, res.Stderr}} {
			if part.chunk.Skipped > 0 {
				a.noteSkipped(rest.Skipped{Stream: part.stream, Bytes: part.chunk.Skipped})
			}
			text, err := client.Text(part.chunk)
			if err != nil {
				return err
			}
			switch {
			case asJSON && part.stream == runtime.Stdout:
				whole.Stdout += string(text)
			case asJSON:
				whole.Stderr += string(text)
			case part.stream == runtime.Stdout:
				_, err = a.out.Write(text)
			default:
				_, err = a.err.Write(text)
			}
			if err != nil {
				return err
			}
		}
		stuck := stdout == res.Stdout.Next && stderr == res.Stderr.Next // half a character, whose rest is to come
		stdout, stderr = res.Stdout.Next, res.Stderr.Next
		if stdout >= limit[0] && stderr >= limit[1] || stuck {
			whole.ProcessInfo = res.ProcessInfo
			break
		}
	}
	if !asJSON {
		return nil
	}
	return a.printJSON(whole)
}
