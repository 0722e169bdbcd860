// Package all is where the drivers of the seven systems are registered: by a function call, with
// no effect before it.
package all

import (
	"log/slog"

	"github.com/aethervm/aether/internal/driver/absent"
	"github.com/aethervm/aether/internal/driver/aethervm"
	"github.com/aethervm/aether/internal/driver/docker"
	"github.com/aethervm/aether/internal/driver/gvisor"
	"github.com/aethervm/aether/internal/driver/qemu"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/vms"
)

// Options select how systems are driven. The zero value is usable.
type Options struct {
	// DockerRuntime is a runtime of the Docker engine, such as "runsc" or "kata"; empty means the
	// engine's default.
	DockerRuntime string
	// CopiesPerCell is aethervm.Options.CopiesPerCell.
	CopiesPerCell int
	// Log gets what is not worth an error; nil discards it.
	Log *slog.Logger
}

// Drivers returns a driver for each of the seven systems, in the fixed order of package vms. A
// system that cannot be driven has one too: its Probe says why. The caller closes them.
func Drivers(opts Options) []sandbox.Driver {
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	made := map[string]sandbox.Driver{}
	for _, d := range absent.Drivers() {
		made[d.System()] = d
	}
	for _, m := range []struct {
		system vms.VM
		driver func() (sandbox.Driver, error)
	}{
		{vms.AetherVM, func() (sandbox.Driver, error) {
			return aethervm.New(aethervm.Options{CopiesPerCell: opts.CopiesPerCell})
		}},
		{vms.Docker, func() (sandbox.Driver, error) { return docker.New(docker.Options{Runtime: opts.DockerRuntime}) }},
		{vms.GVisor, func() (sandbox.Driver, error) { return gvisor.New() }},
		{vms.QEMUKVM, func() (sandbox.Driver, error) { return qemu.New() }},
	} {
		name := m.system.Name()
		d, err := m.driver()
		if err != nil {
			log.Debug("no driver", "system", name, "error", err)
			d = absent.Because(name, err)
		}
		made[name] = d
	}
	drivers := make([]sandbox.Driver, 0, len(made))
	for _, vm := range vms.All() {
		if d := made[vm.Name()]; d != nil {
			drivers = append(drivers, d)
		}
	}
	return drivers
}
