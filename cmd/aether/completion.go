package main

import (
	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/bench"
	"github.com/aethervm/aether/vms"
)

// complete makes the shell offer values for a flag.
func complete(cmd *cobra.Command, flag string, values []string) {
	// It fails only for a flag that does not exist, which no user can bring about.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

func completeSystems(cmd *cobra.Command, flag string) { complete(cmd, flag, systemNames()) }

func completeAxes(cmd *cobra.Command, flag string) {
	var names []string
	for _, axis := range bench.Axes() {
		names = append(names, string(axis))
	}
	complete(cmd, flag, names)
}

// completeSystemArgs offers the systems for so many arguments.
func completeSystemArgs(n int) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return systemNames(), cobra.ShellCompDirectiveNoFileComp
	}
}

func systemNames() []string {
	var names []string
	for _, vm := range vms.All() {
		names = append(names, vm.Name())
	}
	return names
}
