package all

import (
	"testing"

	"github.com/aethervm/aether/vms"
)

func TestEverySystemHasItsDriver(t *testing.T) {
	t.Setenv("AETHER_RUN", t.TempDir())
	drivers := Drivers(Options{})
	if len(drivers) != len(vms.All()) {
		t.Fatalf("%d drivers for %d systems", len(drivers), len(vms.All()))
	}
	for i, vm := range vms.All() {
		if got := drivers[i].System(); got != vm.Name() {
			t.Errorf("driver %d is for %s, want %s", i, got, vm.Name())
		}
		if err := drivers[i].Close(); err != nil {
			t.Errorf("%s: close: %v", vm, err)
		}
	}
}

func TestNoPlaceForLeasesIsToldByProbe(t *testing.T) {
	t.Setenv("AETHER_RUN", "not/absolute")
	for _, d := range Drivers(Options{}) {
		info := d.Probe(t.Context())
		if info.System != d.System() {
			t.Errorf("%s: Probe says it is %q", d.System(), info.System)
		}
		if !info.Available && info.Reason == "" {
			t.Errorf("%s: not available, for no reason", d.System())
		}
		if d.System() == vms.Docker.Name() && info.Available {
			t.Error("docker is available without a place for its leases")
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}
