package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/sandbox"
)

type templateRunOptions struct {
	n       int
	env     []string
	dir     string
	timeout time.Duration
	asJSON  bool
}

func newTemplateRun(a *app) *cobra.Command {
	var o templateRunOptions
	cmd := &cobra.Command{
		Use:   "run [flags] NAME -- COMMAND [ARG...]",
		Short: "Run a program in sandboxes that go on from a template, then throw them away",
		Long: `Make sandboxes of a template, all or none, run one program in each, and remove them. With one
sandbox, the default, standard input, output and error are the program's, and its exit
code is passed on (see "aether help exit-codes"). With more, the programs have no input,
what each has written comes in one piece, below its number, and --json gives all of it as
data.

  aether template run py -- python3 -c 'print(6*7)'
  aether template run -n 10 --json py -- head -c 16 /dev/urandom`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usageError("`"+cmd.CommandPath()+" NAME -- true`", "%s: the template or the command to run is missing", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			program := args[1:]
			if program[0] == "--" { // flags end at the name already
				program = program[1:]
			}
			if len(program) == 0 {
				return usageError("`"+cmd.CommandPath()+" NAME -- true`", "%s: the command to run is missing", cmd.CommandPath())
			}
			return a.runTemplate(cmd.Context(), args[0], program, o)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.IntVarP(&o.n, "copies", "n", 1, "how many sandboxes")
	flags.DurationVar(&o.timeout, "timeout", 0, "kill the program after so long (\"10s\", \"2m\"); 0 is never")
	flags.StringArrayVarP(&o.env, "env", "e", nil, "environment `KEY=VALUE`; KEY alone takes the caller's value (repeatable)")
	flags.StringVarP(&o.dir, "dir", "C", "", "working `directory` in the sandbox")
	jsonFlag(cmd, &o.asJSON)
	return cmd
}

func (a *app) runTemplate(ctx context.Context, name string, args []string, o templateRunOptions) (err error) {
	command := sandbox.Cmd{Args: args, Env: callersEnv(o.env), Dir: o.dir, Timeout: o.timeout}
	if err := command.Check(); err != nil {
		return err
	}
	f := a.openFleet("")
	defer f.close(&err)
	d, err := f.templater()
	if err != nil {
		return err
	}
	a.sweepFirst(ctx, f)
	begin := time.Now()
	copies, err := d.ForkTemplate(ctx, name, o.n)
	if err != nil {
		return err
	}
	a.logger().Debug("copied", "template", name, "copies", len(copies), "ms", time.Since(begin).Milliseconds())
	if len(copies) == 1 && !o.asJSON {
		command.Stdin, command.Stdout, command.Stderr = a.in, a.out, a.err
		exit, err := copies[0].Exec(ctx, command)
		if err := errors.Join(err, copies[0].Close()); err != nil {
			return err
		}
		return passOn(exit)
	}
	results := make([]copyResult, len(copies))
	var tasks sync.WaitGroup
	for i, c := range copies {
		tasks.Go(func() { results[i] = runCopy(ctx, c, command) })
	}
	tasks.Wait()
	return a.printCopies(results, o.asJSON)
}

// maxCopyOutput is how much is kept of what a program of many writes to each of its streams, in bytes.
const maxCopyOutput = 1 << 20

// copyResult is what has become of a program in one of many sandboxes.
type copyResult struct {
	Sandbox  string `json:"sandbox"`
	Code     int    `json:"exit_code"`
	Signal   int    `json:"signal,omitempty"`
	TimedOut bool   `json:"timed_out,omitempty"`
	Stdout   string `json:"stdout"`
	Stderr   string `json:"stderr"`
	Error    string `json:"error,omitempty"`

	err error
}

// runCopy runs the program and closes the sandbox.
func runCopy(ctx context.Context, c sandbox.Sandbox, command sandbox.Cmd) copyResult {
	out, errOut := &head{limit: maxCopyOutput}, &head{limit: maxCopyOutput}
	command.Stdout, command.Stderr = out, errOut
	r := copyResult{Sandbox: c.ID()}
	exit, err := c.Exec(ctx, command)
	if r.err = errors.Join(err, c.Close()); r.err != nil {
		r.Error = r.err.Error()
	}
	r.Code, r.Signal, r.TimedOut, r.Stdout, r.Stderr = exit.Code, exit.Signal, exit.TimedOut, out.String(), errOut.String()
	return r
}

// head keeps the first bytes of what is written to it.
type head struct {
	bytes.Buffer
	limit int
}

func (h *head) Write(p []byte) (int, error) {
	_, _ = h.Buffer.Write(p[:min(len(p), h.limit-h.Len())]) // never fails
	return len(p), nil
}

func (a *app) printCopies(results []copyResult, asJSON bool) error {
	var errs []error
	worked := 0
	for _, r := range results {
		switch {
		case r.err != nil:
			errs = append(errs, r.err)
		case r.Code != 0 || r.Signal != 0 || r.TimedOut:
			errs = append(errs, fmt.Errorf("%s: the program ended with exit code %d, signal %d, timed out: %v", r.Sandbox, r.Code, r.Signal, r.TimedOut))
		default:
			worked++
		}
	}
	var err error
	if asJSON {
		err = a.printJSON(results)
	} else {
		for i, r := range results {
			if err = a.printf("== %d %s\n", i+1, r.Sandbox); err == nil {
				_, err = io.WriteString(a.out, r.Stdout)
			}
			_, _ = io.WriteString(a.err, r.Stderr) // told and not kept
			if err != nil {
				break
			}
		}
	}
	switch {
	case err != nil:
		return err
	case len(errs) > 0 && worked > 0:
		return &failure{code: exitPartly, kind: "partly", err: errors.Join(errs...)}
	case len(errs) > 0:
		return &failure{code: exitFailed, kind: "failed", err: errors.Join(errs...)}
	}
	return nil
}
