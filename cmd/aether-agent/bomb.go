package main

import (
	"os"

	"github.com/aethervm/aether/internal/probe/bomb"
)

// runBomb puts bounded load on the sandbox. It is test load: only the judge runs it, and only where
// it has seen a limit.
func runBomb(args []string) int { return bomb.Main(args, os.Stdout, os.Stderr) }
