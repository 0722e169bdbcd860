// Package drivertest gives tests the drivers of real systems.
package drivertest

import (
	"testing"

	"github.com/aethervm/aether/internal/driver/all"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// Real is the driver of a system that this host has, for a test that runs as root. Without the system the test is
// skipped, or fails where need is required; see testenv.Require. The driver is closed when the test ends.
func Real(t testing.TB, system, need string) sandbox.Driver {
	t.Helper()
	testenv.Root(t)
	testenv.Agent(t)
	testenv.TempRun(t)
	var found sandbox.Driver
	for _, d := range all.Drivers(all.Options{}) {
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
		if d.System() == system {
			found = d
		}
	}
	if found == nil {
		t.Fatalf("there is no driver for %q", system)
	}
	if info := found.Probe(t.Context()); !info.Available {
		testenv.Require(t, need, info.Reason+"; "+info.Remedy)
	}
	return found
}
