package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/aethervm/aether/internal/guest/supervise"
)

func runExec(args []string) int {
	o, err := supervise.ParseOptions(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "aether-agent exec:", err)
		return exitUsage
	}
	o.Env, o.Streams = os.Environ(), [3]int{0, 1, 2}
	return supervise.Prepare().Run(o)
}

func runKill(args []string) int {
	if len(args) != 1 {
		fmt.Fprint(os.Stderr, usage)
		return exitUsage
	}
	if err := supervise.Kill(args[0]); err != nil {
		fmt.Fprintln(os.Stderr, "aether-agent:", err)
		return exitFailure
	}
	return exitOK
}

// runStatus prints nothing and succeeds where the run left no status.
func runStatus(args []string) int {
	if len(args) != 1 {
		fmt.Fprint(os.Stderr, usage)
		return exitUsage
	}
	status, ok := supervise.TakeStatus(args[0])
	if !ok {
		return exitOK
	}
	if err := json.NewEncoder(os.Stdout).Encode(status); err != nil {
		return exitFailure
	}
	return exitOK
}
