package kvm

import (
	"errors"
	"testing"
)

func TestTSCRuns(t *testing.T) {
	for _, c := range []struct {
		host  TSC
		guest uint32
		runs  bool
	}{
		{TSC{KHz: 2_000_000}, 2_000_000, true},
		{TSC{KHz: 2_000_000}, 2_000_400, true}, // within what counts as one
		{TSC{KHz: 2_000_000}, 1_999_600, true},
		{TSC{KHz: 2_000_000}, 2_001_000, false},
		{TSC{KHz: 2_000_000}, 1_999_000, false},
		{TSC{KHz: 2_000_000}, 1, false},
		{TSC{KHz: 2_000_000}, 1<<32 - 1, false},
		{TSC{KHz: 2_000_000}, 0, true}, // not known
		{TSC{}, 3_000_000, true},
		{TSC{KHz: 2_000_000, Scales: true}, 3_000_000, true},
	} {
		if err := c.host.Runs(c.guest); (err == nil) != c.runs || err != nil && !errors.Is(err, ErrTSCRate) {
			t.Errorf("%+v, a guest of %d: %v", c.host, c.guest, err)
		}
	}
}

// A state with a forged rate is scaled where the host can, and refused where it cannot; its own is kept.
func TestTSCRate(t *testing.T) {
	s, err := Open()
	if err != nil {
		t.Skip(err)
	}
	defer s.Close()
	here, err := s.TSC()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", here)
	vm, err := s.CreateVM()
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	c, err := vm.CreateVCPU(0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	state, err := c.State(nil)
	if err != nil {
		t.Fatal(err)
	}
	if state.TSCKHz != here.KHz {
		t.Errorf("the vCPU's counter runs at %d kHz, the host's at %d", state.TSCKHz, here.KHz)
	}
	if err := c.SetState(state); err != nil {
		t.Fatal(err)
	}
	if here.KHz == 0 {
		t.Skip("KVM does not say how fast the counter is here")
	}
	for _, forged := range []uint32{here.KHz / 2, here.KHz + here.KHz/2, 1, 1<<32 - 1} {
		state.TSCKHz = forged
		err := c.SetState(state)
		got, rateErr := c.TSCKHz()
		if rateErr != nil {
			t.Fatal(rateErr)
		}
		switch {
		case err != nil && !errors.Is(err, ErrTSCRate):
			t.Errorf("at %d kHz: %v", forged, err)
		case err != nil && got != here.KHz:
			t.Errorf("refused, and the counter runs at %d kHz", got)
		case err == nil && (!here.Scales || got != forged):
			t.Errorf("at %d kHz: taken, the counter runs at %d; %+v", forged, got, here)
		}
		t.Logf("at %d kHz: %v", forged, err)
		if err == nil { // back, for the next one
			state.TSCKHz = here.KHz
			if err := c.SetState(state); err != nil {
				t.Fatal(err)
			}
		}
	}
}
