package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/client"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
)

func newAttach(a *app) *cobra.Command {
	var o clientOptions
	var tty ttyOption
	var keys string
	cmd := &cobra.Command{
		Use:   "attach PROCESS|SANDBOX [flags]",
		Short: "Connect to the streams of a background process",
		Long: `Connect to a background process, or to the one of a sandbox that was started last: what it
has written and writes comes out here, standard input goes to it, and its exit code is passed
on. The end of standard input ends its own. Ctrl-C disconnects; the process goes on ("aether
kill PROCESS" ends it).

  pr=$(aether exec -d SANDBOX -- python3 -i)
  echo 'print(6*7)' | aether attach $pr

A process that was started with a terminal (-t) is used on this one: its size follows this one's,
all keys go to it, Ctrl-C too, and the keys of --detach-keys disconnect. Several may be connected.

  pr=$(aether exec -d -t SANDBOX -- bash)
  aether attach $pr` + needsServer,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			detach, err := parseKeys(keys)
			if err = errors.Join(err, tty.check()); err != nil {
				return err
			}
			return o.asking(func(c *client.Client) error { return a.attach(cmd.Context(), c, args[0], tty, detach) })
		},
	}
	o.register(cmd)
	tty.register(cmd.Flags())
	cmd.Flags().StringVar(&keys, "detach-keys", "ctrl-p,ctrl-q", "`keys` that disconnect from a terminal")
	return cmd
}

// stdinRetry is how long to wait before a process that is behind in reading is sent more.
const stdinRetry = 100 * time.Millisecond

func (a *app) attach(ctx context.Context, c *client.Client, arg string, tty ttyOption, detach []byte) error {
	id, err := processOf(ctx, c, arg)
	if err != nil {
		return err
	}
	if tty.mode != ttyNever {
		now, err := c.Poll(ctx, id, 0, 0, 0)
		if err != nil {
			return err
		}
		if now.Terminal != nil {
			return a.attachTerminal(ctx, c, id, tty, detach)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		if err := a.feed(ctx, c, id); err != nil {
			cancel(err)
		}
	}()
	p, err := c.Follow(ctx, id, a.out, a.err, a.noteSkipped)
	if err != nil {
		return err
	}
	return passOnResult(p.ExitCode, p.Signal, p.TimedOut, p.Error)
}

// feed sends standard input to a process until either ends.
func (a *app) feed(ctx context.Context, c *client.Client, id string) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := a.in.Read(buf)
		last := err != nil
		for {
			sendErr := c.WriteStdin(ctx, id, buf[:n], last)
			if runtime.CodeOf(sendErr) != runtime.CodeConflict {
				if sendErr != nil {
					return fmt.Errorf("send standard input: %w", sendErr)
				}
				break
			}
			// It has ended, or is behind in reading.
			res, pollErr := c.Poll(ctx, id, 0, 0, 0)
			if pollErr != nil || !res.Running || strings.Contains(sendErr.Error(), "closed") {
				return nil //nolint:nilerr // whoever follows the process reports how it is
			}
			select {
			case <-time.After(stdinRetry):
			case <-ctx.Done():
				return nil
			}
		}
		if last {
			return nil
		}
	}
}

// attachTerminal connects to a process with a terminal. Where aether has none of its own, nothing tells that of its size.
func (a *app) attachTerminal(ctx context.Context, c *client.Client, id string, tty ttyOption, detach []byte) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	streams := client.TerminalStreams{In: a.in, Out: a.out}
	seat := a.seat(tty)
	if seat != nil {
		streams.In = &keyboard{r: a.in, keys: detach, detach: func() { cancel(errDetached) }}
		streams.Resize, streams.Connected = seat.sizes, seat.enter
		seat.resized() // it is drawn anew then
	}
	defer seat.leave()
	p, err := c.AttachTerminal(ctx, id, 0, streams, func(n int64) { a.noteSkipped(rest.Skipped{Stream: runtime.Stdout, Bytes: n}) })
	seat.leave()
	if errors.Is(err, errDetached) {
		a.notice("disconnected; `aether attach %s` connects again", id)
		return nil
	}
	if err != nil {
		return err
	}
	return passOnResult(p.ExitCode, p.Signal, p.TimedOut, p.Error)
}
