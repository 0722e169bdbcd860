// Package oneshot gives a sandbox its Exec and its files where the system's control plane can do
// one thing only: run a program inside. Docker and gVisor are such systems. Everything goes through
// single runs of the guest agent, so the semantics are the same whatever the system.
package oneshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/guest/supervise"
	"github.com/aethervm/aether/internal/guestagent"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

// Program is a program for a system's own exec to run.
type Program struct {
	Args  []string
	Env   []string // whole environment, KEY=value
	Stdin io.Reader
	// Stdout and Stderr are never nil. Write errors must make the run end soon; the one who gave
	// the writer remembers the error.
	Stdout, Stderr io.Writer
}

// RunFunc runs a program by the system's own exec and returns its exit code once its output has
// been delivered. When ctx ends it returns soon, whether or not the program can be ended. Its
// errors are ready for the caller of the sandbox: ErrClosed, ErrDead, ...
type RunFunc func(ctx context.Context, p Program) (code int, err error)

// Runner implements Exec and Files of one sandbox. It may be used concurrently and holds no
// resources.
type Runner struct {
	system, id string
	env        []string
	run        RunFunc
	began      time.Time // by the clock of the sandbox, which is the host's
}

// New returns a Runner for sandbox id of system, in which nothing runs yet. env is the sandbox's own environment, beneath that
// of each command.
func New(system, id string, env []string, run RunFunc) *Runner {
	return &Runner{system: system, id: id, env: env, run: run, began: time.Now()}
}

// killTimeout bounds the killing of a cancelled command, and drainTimeout the wait for its run to
// return after that.
const (
	killTimeout  = 15 * time.Second
	drainTimeout = 5 * time.Second
)

// Exec is Sandbox.Exec.
func (r *Runner) Exec(ctx context.Context, cmd sandbox.Cmd) (sandbox.Exit, error) {
	start := time.Now()
	if err := cmd.Check(); err != nil {
		return sandbox.Exit{}, err
	}
	if err := ctx.Err(); err != nil {
		return sandbox.Exit{}, err
	}
	runID := lease.NewID()
	args := []string{guestagent.Mount, "exec", "--id", runID}
	if cmd.Timeout > 0 {
		args = append(args, "--timeout", cmd.Timeout.String())
	}
	if cmd.Dir != "" {
		args = append(args, "--dir", cmd.Dir)
	}
	if cmd.Terminal != nil {
		t := cmd.Terminal.WithDefaults()
		args = append(args, "--terminal", t.Size.String())
		input := newTerminalInput(cmd.Stdin, t.Resize)
		defer input.close()
		cmd.Stdin, cmd.Stderr = input, nil
	}
	args = append(append(args, "--"), cmd.Args...)

	// A failing writer of the caller ends the command just as a cancelled context does.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	code, err := r.runKillable(ctx, runID, Program{
		Args:   args,
		Env:    sandbox.Environ(r.env, cmd.Environment()),
		Stdin:  cmd.Stdin,
		Stdout: guard(cmd.Stdout, cancel),
		Stderr: guard(cmd.Stderr, cancel),
	})
	if err != nil {
		return sandbox.Exit{}, err
	}
	exit := sandbox.Exit{Code: code}
	if code >= supervise.FirstAmbiguousCode {
		if exit, err = r.explain(ctx, runID, code, cmd.Args[0]); err != nil {
			return sandbox.Exit{}, err
		}
	}
	exit.Duration = time.Since(start)
	return exit, nil
}

// runKillable runs p; when ctx ends it ends the program with its descendants first.
func (r *Runner) runKillable(ctx context.Context, runID string, p Program) (int, error) {
	type result struct {
		code int
		err  error
	}
	runCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	done := make(chan result, 1)
	go func() {
		code, err := r.run(runCtx, p)
		done <- result{code, err}
	}()
	select {
	case res := <-done:
		err := context.Cause(ctx)
		if err == nil {
			return res.code, res.err
		}
		// A failing writer has ended the run; the program may still be there.
		return 0, errors.Join(err, r.kill(ctx, runID, res.err))
	case <-ctx.Done():
	}
	killErr := r.kill(ctx, runID, nil)
	select {
	case <-done:
	case <-time.After(drainTimeout):
	}
	stop()
	if killErr != nil {
		return 0, fmt.Errorf("%w; its processes may still run: %w", context.Cause(ctx), killErr)
	}
	return 0, context.Cause(ctx)
}

// kill ends a run that returned runErr. Where the sandbox is gone, so is the run: that is no error.
func (r *Runner) kill(ctx context.Context, runID string, runErr error) error {
	if gone(runErr) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	_, _, err := r.agent(ctx, nil, nil, "kill", runID)
	if gone(err) {
		return nil
	}
	return err
}

func gone(err error) bool {
	return errors.Is(err, sandbox.ErrClosed) || errors.Is(err, sandbox.ErrDead)
}

// explain asks the agent what an exit code from 125 on stands for.
func (r *Runner) explain(ctx context.Context, runID string, code int, program string) (sandbox.Exit, error) {
	out, _, err := r.agent(ctx, nil, nil, "status", runID)
	if err != nil {
		return sandbox.Exit{}, err
	}
	return interpret(out, code, func(why string) error {
		return &sandbox.Error{Op: "exec", System: r.system, Sandbox: r.id, Err: sandbox.ErrCannotRun,
			Detail: why, Remedy: fmt.Sprintf("is %q in the image, executable, and the working directory there?", program)}
	})
}

// interpret reads a status as the agent prints it; the sandbox may have made it say anything.
func interpret(out []byte, code int, cannotRun func(why string) error) (sandbox.Exit, error) {
	var s supervise.Status
	if json.Unmarshal(out, &s) != nil {
		// No status: the supervisor itself was killed, by the sandbox's memory limit for example.
		if sig := code - 128; sig > 0 && sig <= 64 {
			return sandbox.Exit{Code: -1, Signal: sig}, nil
		}
		return sandbox.Exit{Code: code}, nil
	}
	switch {
	case s.CannotRun != "":
		return sandbox.Exit{}, cannotRun(s.CannotRun)
	case s.Signal > 0 && s.Signal <= 64:
		return sandbox.Exit{Code: -1, Signal: s.Signal, TimedOut: s.TimedOut}, nil
	}
	return sandbox.Exit{Code: code}, nil
}

// maxReply bounds what the agent may answer to a file operation other than read.
const maxReply = 64 << 20

// agent runs the agent in a mode that answers with a short text.
func (r *Runner) agent(ctx context.Context, stdin io.Reader, stdout io.Writer, args ...string) (out []byte, code int, err error) {
	var outBuf, errBuf limitedBuffer
	if stdout == nil {
		stdout = &outBuf
	}
	code, err = r.run(ctx, Program{
		Args:   append([]string{guestagent.Mount}, args...),
		Env:    sandbox.Environ(),
		Stdin:  stdin,
		Stdout: stdout,
		Stderr: &errBuf,
	})
	if err != nil {
		return nil, code, err
	}
	if code != 0 {
		return errBuf.Bytes(), code, &sandbox.Error{Op: strings.Join(args[:min(2, len(args))], " "), System: r.system,
			Sandbox: r.id, Err: errAgent, Detail: fmt.Sprintf("exit %d: %s", code, bytes.TrimSpace(errBuf.Bytes()))}
	}
	return outBuf.Bytes(), 0, nil
}

var errAgent = errors.New("guest agent failed")

// limitedBuffer refuses to grow past maxReply. The buffer is not embedded: io.Copy would use its ReadFrom, which knows no limit.
type limitedBuffer struct{ kept bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.kept.Len()+len(p) > maxReply {
		return 0, fmt.Errorf("reply of more than %d bytes", maxReply)
	}
	return b.kept.Write(p)
}

func (b *limitedBuffer) Bytes() []byte { return b.kept.Bytes() }

// guard returns a writer that calls fail with w's first error. A nil w discards.
func guard(w io.Writer, fail context.CancelCauseFunc) io.Writer {
	if w == nil {
		return io.Discard
	}
	return &guarded{w: w, fail: fail}
}

type guarded struct {
	w    io.Writer
	fail context.CancelCauseFunc
	once sync.Once
}

func (g *guarded) Write(p []byte) (int, error) {
	n, err := g.w.Write(p)
	if err != nil {
		g.once.Do(func() { g.fail(fmt.Errorf("write output: %w", err)) })
	}
	return n, err
}
