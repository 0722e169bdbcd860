package main

import (
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/sandbox"
)

// programOptions are the flags of commands that run one program in a sandbox of its own.
type programOptions struct {
	image, dockerRuntime string
	dir                  string
	env                  []string
	timeout              time.Duration
	network              networkOptions
	tty                  ttyOption
}

// register makes all of them flags of a command but for the Docker runtime, which commands word differently.
func (o *programOptions) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows the command's name belongs to the command
	flags.StringVar(&o.image, "image", image.DefaultName, "`image`, by name or digest (see \"aether image ls\")")
	flags.DurationVar(&o.timeout, "timeout", 0, "kill the program after so long (\"10s\", \"2m\"); 0 is never")
	o.network.register(cmd)
	o.tty.register(flags)
	flags.StringArrayVarP(&o.env, "env", "e", nil, "environment `KEY=VALUE`; KEY alone takes the caller's value (repeatable)")
	flags.StringVarP(&o.dir, "dir", "C", "", "working `directory` in the sandbox")
}

// needProgram refuses a command line that ends before the program to run.
func needProgram(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usageError("`"+cmd.CommandPath()+" -- true`", "%s: the command to run is missing", cmd.CommandPath())
	}
	return nil
}

// passOn makes the program's end that of aether.
func passOn(exit sandbox.Exit) error {
	switch {
	case exit.TimedOut:
		return exitWith(exitTimeout)
	case exit.Signal != 0:
		return exitWith(exitSignal + exit.Signal)
	case exit.Code != 0:
		return exitWith(exit.Code)
	}
	return nil
}

// callersEnv gives entries without a value that of aether's own environment, as docker run does.
func callersEnv(entries []string) []string {
	var env []string
	for _, e := range entries {
		if !strings.Contains(e, "=") && e != "" {
			value, ok := os.LookupEnv(e)
			if !ok {
				continue
			}
			e += "=" + value
		}
		env = append(env, e)
	}
	return env
}
