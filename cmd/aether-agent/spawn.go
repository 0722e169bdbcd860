package main

import (
	"fmt"
	"os"

	"github.com/aethervm/aether/internal/guest/spawn"
)

// runSpawn runs a program below PID 1, so that it survives where what an exec started does not.
func runSpawn(args []string) int {
	if len(args) < 1 || args[0] != "exec" {
		fmt.Fprint(os.Stderr, usage)
		return exitUsage
	}
	code, err := spawn.Run(args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "aether-agent:", err)
		return exitFailure
	}
	return code
}

// runSupervise is what "park --spawn" starts.
func runSupervise() int {
	if err := spawn.Supervise(); err != nil {
		fmt.Fprintln(os.Stderr, "aether-agent:", err)
		return exitFailure
	}
	return exitOK
}
