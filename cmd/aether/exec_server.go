package main

import (
	"context"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
	"github.com/aethervm/aether/sandbox"
)

// execIn runs a program in a sandbox of the server.
func (a *app) execIn(cmd *cobra.Command, o execOptions, id string, args []string) error {
	if len(args) == 0 {
		return usageError("`"+cmd.CommandPath()+" "+id+" -- true`", "%s: the command to run is missing", cmd.CommandPath())
	}
	for _, name := range []string{"vm", "image", "memory", "vcpus", "net", "allow", "docker-runtime"} {
		if cmd.Flags().Changed(name) {
			return usageError("give it to `aether new`", "%s: sandbox %s is there already: --%s is for a fresh one", cmd.CommandPath(), id, name)
		}
	}
	run := rest.Run{Args: args, Dir: o.dir, Env: callersEnv(o.env), TimeoutS: o.timeout.Seconds()}
	return o.asking(func(c *client.Client) error {
		if o.detach {
			run.Background = true
			if o.tty.mode == ttyAlways {
				run.Terminal = a.seat(o.tty).rest()
			}
			res, err := c.Run(cmd.Context(), id, run, "")
			if err != nil {
				return err
			}
			if o.json {
				return a.printJSON(res)
			}
			return a.printf("%s\n", res.Process)
		}
		res, err := a.execThere(cmd.Context(), c, o, id, run)
		if err != nil {
			return err
		}
		return passOnResult(res.ExitCode, res.Signal, res.TimedOut, nil)
	})
}

// execThere runs a program in the foreground.
func (a *app) execThere(ctx context.Context, c *client.Client, o execOptions, id string, run rest.Run) (rest.ExecResult, error) {
	seat := a.seat(o.tty)
	if seat == nil {
		return c.Exec(ctx, id, run, client.Streams{Stdin: a.in, Stdout: a.out, Stderr: a.err})
	}
	defer seat.leave()
	run.Terminal = seat.rest()
	return c.Terminal(ctx, id, run, client.TerminalStreams{In: a.in, Out: a.out, Resize: seat.sizes, Connected: seat.enter})
}

// passOnResult makes the end of a program that a server tells of that of aether.
func passOnResult(code *int, signal string, timedOut bool, ended *runtime.Error) error {
	if ended != nil {
		return ended
	}
	return passOn(exitOf(code, signal, timedOut))
}

// exitOf is the end of a program that a server tells of.
func exitOf(code *int, signal string, timedOut bool) sandbox.Exit {
	exit := sandbox.Exit{TimedOut: timedOut}
	if signal != "" {
		exit.Signal = int(unix.SignalNum(signal))
	}
	if code != nil {
		exit.Code = *code
	}
	return exit
}
