package kvm

import (
	"errors"
	"reflect"
	"testing"

	"github.com/aethervm/aether/internal/codec"
)

// patterned is a state of which every field counts.
func patterned() *VCPUState {
	s := &VCPUState{HasLAPIC: true, MSRs: []MSREntry{{Index: 0x10, Data: 7}, {Index: 0xc0000080, Data: 1 << 63}}, mpState: 3, TSCKHz: 2_000_000}
	s.Regs.RAX, s.Regs.RFLAGS = 1, 2
	s.Sregs.CS.Base, s.Sregs.CS.AVL, s.Sregs.GDT.Limit, s.Sregs.InterruptBitmap[3] = 5, 1, 6, 7
	for _, p := range [][]byte{s.xcrs[:], s.xsave[:], s.debugRegs[:], s.lapic[:], s.events[:]} {
		for i := range p {
			p[i] = byte(i*7 + len(p))
		}
	}
	return s
}

func decodeVCPU(b []byte) (*VCPUState, error) {
	d := codec.NewDecoder(b)
	s := DecodeVCPUState(d)
	return s, d.End()
}

func TestStateRoundTrip(t *testing.T) {
	want := patterned()
	b := want.Append(nil)
	got, err := decodeVCPU(b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v: %v", got, err)
	}
	for n := 0; n < len(b); n += 13 {
		if _, err := decodeVCPU(b[:n]); !errors.Is(err, codec.ErrMalformed) {
			t.Fatalf("of %d bytes: %v", n, err)
		}
	}
}
