package gvisor

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/aethervm/aether/internal/guestagent"
	"github.com/aethervm/aether/internal/oneshot"
	"github.com/aethervm/aether/sandbox"
)

// runProgram runs a program with runsc exec. It is an oneshot.RunFunc.
func (s *Sandbox) runProgram(callerCtx context.Context, p oneshot.Program) (int, error) {
	const op = "exec"
	ctx, done, err := s.begin(callerCtx, op)
	if err != nil {
		return 0, err
	}
	defer done()
	if s.isPaused() {
		return 0, &sandbox.Error{Op: op, System: System, Sandbox: s.id, Err: sandbox.ErrUnsupported,
			Detail: "the sandbox is paused", Remedy: "resume it first"}
	}
	args := p.Args
	if len(args) > 1 && args[0] == guestagent.Mount && args[1] == "exec" {
		// gVisor kills in a restored sandbox what runsc exec has started, with all its descendants.
		// What runs below PID 1 goes on.
		args = append([]string{guestagent.Mount, "spawn"}, args[1:]...)
	}
	// A file and not flags: it takes an environment of any size, and only what it says.
	process, err := json.Marshal(specs.Process{Args: args, Env: p.Env, Cwd: "/", NoNewPrivileges: true})
	if err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	stdin, err := newInput(p.Stdin)
	if err != nil {
		return 0, typed(op, s.id, err)
	}
	defer stdin.close()
	var outputs [2]*output
	defer func() {
		for _, o := range outputs {
			if o != nil {
				o.close()
			}
		}
	}()
	for i, to := range []interface{ Write([]byte) (int, error) }{p.Stdout, p.Stderr} {
		if outputs[i], err = newOutput(to); err != nil {
			return 0, typed(op, s.id, err)
		}
	}
	code, err := s.runsc.run(ctx, invocation{
		op:      "exec",
		args:    []string{fmt.Sprintf("--process=/proc/self/fd/%d", processFD), s.id},
		stdin:   stdin.r,
		stdout:  outputs[0].w,
		stderr:  outputs[1].w,
		process: process,
	})
	if err != nil {
		return 0, s.fail(callerCtx, op, err)
	}
	for _, o := range outputs {
		o.finish(ctx)
	}
	if ctx.Err() != nil {
		return 0, s.fail(callerCtx, op, ctx.Err())
	}
	return code, nil
}

func (s *Sandbox) isPaused() bool {
	s.pausing.Lock()
	defer s.pausing.Unlock()
	return s.paused
}
