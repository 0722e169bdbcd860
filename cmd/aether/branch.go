package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
)

func newBranch(a *app) *cobra.Command {
	o := forkOptions{}
	cmd := &cobra.Command{
		Use:   "branch SANDBOX [-n N] [flags] [-- COMMAND [ARG...]]",
		Short: "Try a command in several copies of a sandbox, and keep one in which it succeeded",
		Long: `Copy a running sandbox N times, run the command in each copy at the same time, keep the
first copy, by number, in which it ended with exit code 0, and kill the others. The original is
as it was. AETHER_FORK in the command's environment is the number of the copy, from 0.

  best=$(aether branch SANDBOX -n 3 -- sh -c 'cd /work && ./try $AETHER_FORK && make test')
  aether exec $best -- cat /work/result

It prints the ID of the copy that is kept. If the command succeeds nowhere, no copy is kept,
what the commands wrote goes to standard error, and the exit code is 1. Ctrl-C kills all copies.

Without a command all copies are kept, and their IDs printed: branches to go on with by hand.

  aether branch SANDBOX -n 3` + needsServer,
		Args: needSubject,
		RunE: func(cmd *cobra.Command, args []string) error {
			subject, program := splitProgram(cmd, args)
			return o.asking(func(c *client.Client) error { return a.branch(cmd.Context(), c, subject, program, o) })
		},
	}
	o.register(cmd)
	flags := cmd.Flags()
	flags.IntVarP(&o.n, "copies", "n", 3, "how many `copies`")
	flags.DurationVar(&o.timeout, "timeout", 0, "kill the command in a copy after so long (\"10s\", \"2m\"); 0 is never")
	jsonFlag(cmd, &o.asJSON)
	return cmd
}

func (a *app) branch(ctx context.Context, c *client.Client, sandboxID string, program []string, o forkOptions) error {
	forked, err := o.once(ctx, c, sandboxID, nil)
	if err != nil {
		return err
	}
	if program != nil {
		// By requests of its own, so that it is known what to kill when this is cut short.
		runInCopies(ctx, c, forked.Children, rest.Run{Args: program, TimeoutS: o.timeout.Seconds()})
	}
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), killCopies(ctx, c, forked.Children))
	}
	if program == nil {
		if o.asJSON {
			return a.printJSON(forked)
		}
		return a.printForked(forked)
	}
	var kept *rest.ForkedChild
	var lost []rest.ForkedChild
	for i := range forked.Children {
		if child := &forked.Children[i]; kept == nil && succeeded(*child) {
			kept = child
		} else {
			lost = append(lost, *child)
		}
	}
	if err := killCopies(ctx, c, lost); err != nil {
		return err
	}
	if kept == nil {
		for i, child := range forked.Children {
			a.notice("copy %d: %s", i, forkEnd(child))
			if child.Run != nil {
				said := indent(child.Run.Stdout) + indent(child.Run.Stderr)
				if terminalOf(a.err) != nil {
					said = terminalText(said)
				}
				_, _ = io.WriteString(a.err, said) // told and not kept
			}
		}
		return failed(nil, "", "the command succeeded in none of %d copies", len(forked.Children))
	}
	if o.asJSON {
		return a.printJSON(kept)
	}
	return a.printf("%s\n", kept.Sandbox.ID)
}

// runInCopies runs a program in each copy at the same time, and notes what has become of it.
func runInCopies(ctx context.Context, c *client.Client, copies []rest.ForkedChild, run rest.Run) {
	var tasks sync.WaitGroup
	for i := range copies {
		own := run
		own.Env = append(slices.Clone(run.Env), "AETHER_FORK="+strconv.Itoa(i))
		tasks.Go(func() {
			res, err := c.Run(ctx, copies[i].Sandbox.ID, own, "")
			if err == nil {
				copies[i].Run = &res
				return
			}
			var ok bool
			if copies[i].Error, ok = errors.AsType[*runtime.Error](err); !ok {
				copies[i].Error = &runtime.Error{Code: runtime.CodeInternal, Op: "run", Cause: err.Error()}
			}
		})
	}
	tasks.Wait()
}

// killPatience bounds the killing of copies that nobody wants any more.
const killPatience = time.Minute

// killCopies kills copies, also when ctx has ended.
func killCopies(ctx context.Context, c *client.Client, copies []rest.ForkedChild) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killPatience)
	defer cancel()
	errs := make([]error, len(copies))
	for i, child := range copies {
		errs[i] = c.Kill(ctx, child.Sandbox.ID)
	}
	return errors.Join(errs...)
}
