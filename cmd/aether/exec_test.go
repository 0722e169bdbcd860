package main

import (
	"testing"

	"github.com/aethervm/aether/vms"
)

func TestExecPassesTheProgramThrough(t *testing.T) {
	for _, system := range []struct {
		vm   vms.VM
		need string
	}{{vms.Docker, "DOCKER"}, {vms.GVisor, "GVISOR"}, {vms.QEMUKVM, "QEMU"}} {
		t.Run(system.vm.Name(), func(t *testing.T) {
			available(t, system.vm, system.need)
			testPassesThrough(t, "exec", system.vm)
		})
	}
}

func TestExecInterrupted(t *testing.T) {
	available(t, vms.Docker, "DOCKER")
	testInterrupted(t, "exec", vms.Docker)
}
