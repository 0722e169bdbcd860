package main

import (
	"os"

	"github.com/aethervm/aether/internal/probe/inside"
)

// runProbe asks what guest code can see and reach, and writes the answers as JSON.
func runProbe(args []string) int { return inside.Main(args, os.Stdout, os.Stderr) }
