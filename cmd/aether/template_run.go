package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/sandbox"
)

type templateRunOptions struct {
	templateWhere
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
  aether template run -n 10 --json py -- head -c 16 /dev/urandom` + whereTemplates,
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
	o.register(cmd)
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.IntVarP(&o.n, "copies", "n", 1, "how many sandboxes")
	flags.DurationVar(&o.timeout, "timeout", 0, "kill the program after so long (\"10s\", \"2m\"); 0 is never")
	flags.StringArrayVarP(&o.env, "env", "e", nil, "environment `KEY=VALUE`; KEY alone takes the caller's value (repeatable)")
	flags.StringVarP(&o.dir, "dir", "C", "", "working `directory` in the sandbox")
	jsonFlag(cmd, &o.asJSON)
	return cmd
}

func (a *app) runTemplate(ctx context.Context, name string, args []string, o templateRunOptions) error {
	command := sandbox.Cmd{Args: args, Env: callersEnv(o.env), Dir: o.dir, Timeout: o.timeout}
	if err := command.Check(); err != nil {
		return err
	}
	return a.withTemplates(ctx, o.templateWhere, func(host templateHost) error {
		if o.n == 1 && !o.asJSON {
			copies, err := host.copies(ctx, name, 1)
			if err != nil {
				return err
			}
			command.Stdin, command.Stdout, command.Stderr = a.in, a.out, a.err
			exit, err := copies[0].Exec(ctx, command)
			if err := errors.Join(err, copies[0].Close()); err != nil {
				return err
			}
			return passOn(exit)
		}
		results, err := a.copiesAllOrNone(ctx, host.copies, name, o.n, command, maxCopyOutput)
		if err != nil {
			return err
		}
		if o.asJSON {
			err = a.printJSON(results)
		} else {
			err = a.printCopies(results)
		}
		return errors.Join(err, outcome(results))
	})
}

// maxCopyOutput is how much is kept of what a program of many writes to each of its streams, in bytes.
const maxCopyOutput = 1 << 20
