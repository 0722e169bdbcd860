package main

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/bench"
	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/internal/kernel"
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

// completeNames makes the shell offer what there is on this host, or on the server, to every command that takes it.
func completeNames(root *cobra.Command) {
	byPath := map[string]cobra.CompletionFunc{
		"image rm": atMost(math.MaxInt, imageNames), "kernel rm": atMost(math.MaxInt, kernelVersions),
		"kill": atMost(math.MaxInt, sandboxIDs), "diff": atMost(2, sandboxIDs),
		"snapshot rollback": atMost(1, sandboxIDs), "snapshot save": atMost(1, sandboxIDs),
		"attach": atMost(1, sandboxIDs), "logs": atMost(1, sandboxIDs), "ls": atMost(1, sandboxIDs),
		"fork": atMost(1, sandboxIDs), "branch": atMost(1, sandboxIDs), "exec": atMost(1, sandboxIDs),
	}
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		if f, ok := byPath[strings.TrimPrefix(cmd.CommandPath(), "aether ")]; ok && cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = f
		}
		if cmd.Flags().Lookup("image") != nil {
			_ = cmd.RegisterFlagCompletionFunc("image", atMost(math.MaxInt, imageNames)) // the flag exists
		}
		if cmd.Flags().Lookup("tty") != nil {
			complete(cmd, "tty", []string{ttyAuto, ttyAlways, ttyNever})
		}
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(root)
}

// atMost offers names for the first n arguments, and files, as the shell does by itself, for the others.
func atMost(n int, names func(context.Context) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= n {
			return nil, cobra.ShellCompDirectiveDefault
		}
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, completePatience)
		defer cancel()
		given := func(offer string) bool {
			name, _, _ := strings.Cut(offer, "\t") // without its description
			return slices.Contains(args, name)
		}
		return slices.DeleteFunc(names(ctx), given), cobra.ShellCompDirectiveNoFileComp
	}
}

// completePatience is how long somebody who has typed Tab is kept waiting for a server.
const completePatience = time.Second

// What follows offers nothing where it fails: a shell has no place to say why.

func imageNames(context.Context) []string {
	store, err := image.Default()
	if err != nil {
		return nil
	}
	entries, _ := store.List()
	var names []string
	for _, e := range entries {
		names = append(names, e.Names...)
	}
	return names
}

func kernelVersions(context.Context) []string {
	root, err := kernelStore()
	if err != nil {
		return nil
	}
	kernels, _ := kernel.List(root)
	var versions []string
	for _, k := range kernels {
		versions = append(versions, k.Version)
	}
	return versions
}

func sandboxIDs(ctx context.Context) []string {
	c, err := clientOptions{}.connect()
	if err != nil {
		return nil
	}
	defer c.Close()
	list, _ := c.Sandboxes(ctx)
	var ids []string
	for _, sb := range list {
		ids = append(ids, cobra.CompletionWithDesc(sb.ID, sb.System+", "+string(sb.State)))
	}
	return ids
}
