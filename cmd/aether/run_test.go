package main

import (
	"strings"
	"testing"

	"github.com/aethervm/aether/vms"
)

func TestRunPassesTheProgramThrough(t *testing.T) {
	available(t, vms.GVisor, "GVISOR")
	testPassesThrough(t, "run", vms.GVisor,
		passCase{"long output", nil, []string{"head", "-c", "100000", "/dev/zero"}, "", 0, strings.Repeat("\x00", 100000), ""},
		passCase{"why", []string{"-v"}, []string{"true"}, "", 0, "", "gvisor, asked for"})
}

func TestRunInterrupted(t *testing.T) {
	available(t, vms.GVisor, "GVISOR")
	testInterrupted(t, "run", vms.GVisor)
}
