package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "aether",
		Short: "Judge the sandboxes that agents' tool calls run in, and drive them",
		Long: `aether tells which sandbox an agent's tool calls should run in, and how it knows.

It scores seven systems (AetherVM, Firecracker, Cloud Hypervisor, gVisor, Kata
Containers, QEMU/KVM, Docker) on five axes: start latency, density, isolation,
snapshotting and agent control. Without measuring it answers from published
evidence with sources; "aether bench" measures what this host has.

  aether doctor                         what this host has, and what is missing
  aether rank                           the ranking, from published evidence
  aether bench                          measure the systems of this host
  aether rank --measured DIR            the ranking, from those measurements
  aether exec -- python3 -c 'print(42)' run a program in a fresh sandbox`,
		Args:          commandArgs,
		Version:       versionLine(),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.Flags().Bool("version", false, "print the version")
	root.SetGlobalNormalizationFunc(canonicalFlag)
	root.SetHelpCommand(newHelp())
	root.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "log what is done to standard error")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(flagRemedy(cmd, err), "%s: %s", cmd.CommandPath(), flagProblem(err))
	})
	root.AddGroup(
		&cobra.Group{ID: "judge", Title: "Judge:"},
		&cobra.Group{ID: "measure", Title: "Measure:"},
		&cobra.Group{ID: "drive", Title: "Drive:"},
		&cobra.Group{ID: "server", Title: "Drive the sandboxes of a server (\"aether serve\"):"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, cmd := range cmds {
			cmd.GroupID = group
			cmd.DisableFlagsInUseLine = true
			root.AddCommand(cmd)
		}
	}
	add("judge", newRank(a), newProfile(a), newCompare(a))
	add("measure", newDoctor(a), newBench(a), newReport(a), newLab(a))
	add("server", newNew(a), newList(a), newCopy(a), newLogs(a), newAttach(a), newFork(a), newBranch(a), newDiff(a), newSnapshot(a), newRestore(a), newKill(a), newAudit(a), newTenant(a))
	add("drive", newRun(a), newExec(a), newMCP(a), newServe(a), newTools(a), newTemplate(a), newImage(a), newKernel(a), newSweep(a))
	add("", newVersion(a), newExitCodes(), newEnvironment())
	completeNames(root)
	return root
}

// canonicalFlag makes the names that other tools have for two flags mean the same everywhere.
func canonicalFlag(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	switch name {
	case "mem":
		name = "memory"
	case "cpus":
		name = "vcpus"
	}
	return pflag.NormalizedName(name)
}

// flagProblem is what is wrong with a flag, without the names of Go's functions that found it out.
func flagProblem(err error) string {
	text := err.Error()
	if num, ok := errors.AsType[*strconv.NumError](err); ok {
		text = strings.TrimSuffix(text, num.Error()) + num.Err.Error()
	}
	return strings.Replace(text, ": time: ", ": ", 1)
}

func flagRemedy(cmd *cobra.Command, err error) string {
	if missing, ok := errors.AsType[*pflag.NotExistError](err); ok && missing.GetSpecifiedName() == "i" && cmd.Flags().Lookup("tty") != nil {
		return "standard input is the program's without it: leave -i out, -t alone gives a terminal"
	}
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok && invalid.GetFlag().Value.Type() == "duration" {
		return "a duration has a unit, as in 500ms, 10s, 2m and 1h"
	}
	return "`" + cmd.CommandPath() + " --help` lists the flags"
}

// newHelp is cobra's help command, but refuses what is no command.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Tell about a command, or a topic",
		Long: `Tell about a command, or one of the topics that "aether help" lists at its end.

  aether help
  aether help template create
  aether help exit-codes`,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			of, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []cobra.Completion
			for _, sub := range of.Commands() {
				if !sub.Hidden {
					names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			of, rest, err := cmd.Root().Find(args)
			switch {
			case err == nil && len(rest) == 0:
			case of.HasSubCommands():
				return commandArgs(of, rest)
			default:
				return usageError("`aether help "+strings.Join(args[:len(args)-len(rest)], " ")+"`", "%s has no command %q", of.CommandPath(), rest[0])
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}

// commandArgs refuses a word that is no subcommand and suggests the nearest ones.
func commandArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	remedy := "`" + cmd.CommandPath() + " --help` lists the commands"
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		remedy = "did you mean `" + cmd.CommandPath() + " " + strings.Join(near, "` or `"+cmd.CommandPath()+" ") + "`?"
	}
	return usageError(remedy, "unknown command %q for %q", args[0], cmd.CommandPath())
}

// takes is a check that a command got the arguments that its usage line names.
func takes(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= low && len(args) <= high {
			return nil
		}
		what := "too many arguments"
		if len(args) < low {
			what = "an argument is missing"
		}
		return usageError("`"+cmd.UseLine()+"`", "%s: %s", cmd.CommandPath(), what)
	}
}

// jsonFlag adds --json to a command that prints a table.
func jsonFlag(cmd *cobra.Command, asJSON *bool) {
	cmd.Flags().BoolVar(asJSON, "json", false, "print JSON")
}

// printf writes to standard output. Its error matters: the reader may be gone.
func (a *app) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(a.out, format, args...)
	return err
}
