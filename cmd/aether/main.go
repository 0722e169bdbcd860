// Command aether judges the sandboxes that an agent's tool calls can run in, and drives them.
package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	passOnNothing()
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// passOnNothing has the processes that this one starts get none of the files that whoever has started this one had open.
func passOnNothing() {
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // fails before Linux 5.11
}

// app is what every command shares: the streams and the options of the root command. What a command
// is asked for goes to out; progress, logs and errors go to err.
type app struct {
	in       io.Reader
	out, err io.Writer
	verbose  bool
}

// logger writes to standard error: warnings, and with -v everything.
func (a *app) logger() *slog.Logger {
	level := slog.LevelWarn
	if a.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
}

// run is the whole program but for os.Exit, and returns the exit code.
func run(args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := withSignals(context.Background())
	defer stop()
	a := &app{in: in, out: out, err: errOut}
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	// A command that was cut short by a signal failed because of it, whatever it says.
	var sig signalError
	if errors.As(context.Cause(ctx), &sig) && errors.Is(err, context.Canceled) {
		err = sig.withRemedyOf(err)
	}
	f := diagnose(err)
	if cmd != nil && (cmd.Name() == "exec" || cmd.Name() == "run" || cmd.Name() == "attach") {
		f = f.forExec()
	}
	f.print(errOut, wantsJSON(args))
	return f.code
}

// signalError is the cause of a context that a signal has ended.
type signalError struct {
	signal syscall.Signal
	remedy string
}

func (e signalError) Error() string { return "interrupted by " + unix.SignalName(e.signal) }

// Is makes whoever looks for a context's end find it, also where context.Cause was passed on.
func (e signalError) Is(target error) bool { return target == context.Canceled }

// withRemedyOf keeps what a command has to say about going on after the interruption.
func (e signalError) withRemedyOf(err error) error {
	if f := (*failure)(nil); errors.As(err, &f) {
		e.remedy = f.remedy
	}
	return e
}

// withSignals returns a context that ends at the first SIGINT, SIGTERM or SIGHUP, so that commands
// clean up. A second signal ends the process at once, as it would any other.
//
// SIGPIPE is caught and dropped: a closed standard output is then an error of Write, and what a
// command holds is released before it ends. It is not ignored, since children would inherit that.
func withSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	pipe := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	signal.Notify(pipe, syscall.SIGPIPE)
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			if s, ok := s.(syscall.Signal); ok {
				cancel(signalError{signal: s})
			}
			cancel(context.Canceled)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		signal.Stop(pipe)
		cancel(context.Canceled)
	}
}
