package kvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newGuestAPIC is newGuest with a local APIC.
func newGuestAPIC(t testing.TB, s *System, code map[uint64][]byte) *microGuest {
	t.Helper()
	g, err := newMicroGuestWith(s, code, func(v *VM) error { return v.EnableSplitIRQChip(24) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

const (
	apicSpurious = 0xf0 // register of the local APIC
	apicEnabled  = 1 << 8
	testVector   = 0x40
)

// An interrupt from the host reaches the handler of a guest that spins in real mode.
func TestSignalMSI(t *testing.T) {
	handler := make([]byte, 4)
	binary.LittleEndian.PutUint16(handler, guestUser)
	g := newGuestAPIC(t, openSystem(t), map[uint64][]byte{
		4 * testVector: handler,
		guestCode:      {0xfb, 0x90, 0xeb, 0xfd}, // sti; nop; jmp to the nop
		guestUser:      report,
	})
	if err := g.realMode(); err != nil {
		t.Fatal(err)
	}
	msi := MSI{Address: 0xfee00000, Data: testVector}
	if delivered, err := g.vm.SignalMSI(msi); err != nil || delivered {
		t.Fatalf("to a local APIC that is switched off: %v, %v", delivered, err)
	}
	state, err := g.vcpu.State(nil)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(state.lapic[apicSpurious:], apicEnabled|0xff)
	if err := g.vcpu.SetState(state); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(2*time.Millisecond, func() {
		if delivered, err := g.vm.SignalMSI(msi); err != nil || !delivered {
			t.Errorf("SignalMSI: %v, %v", delivered, err)
		}
	})
	if err := g.expectReport(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestMemoryCanBeRemoved(t *testing.T) {
	g := newGuest(t, openSystem(t), 0x8a, 0x07) // mov al, [rdi]
	const second = guestMemory
	mem, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	mem[0] = 0x77
	read := func() Exit {
		t.Helper()
		copy(g.mem[guestCode+2:], []byte{0xe6, reportPort}) // out reportPort, al
		if err := g.longMode(3, Regs{RDI: second}); err != nil {
			t.Fatal(err)
		}
		exit, err := g.vcpu.runBounded(t.Context(), checkLimit)
		if err != nil {
			t.Fatal(err)
		}
		return exit
	}
	if err := g.vm.SetMemory(1, second, mem); err != nil {
		t.Fatal(err)
	}
	if exit := read(); exit.Reason != ExitIO || !bytes.Equal(exit.IO.Data, mem[:1]) {
		t.Errorf("with memory: %+v", exit)
	}
	if err := g.vm.SetMemory(1, second, nil); err != nil {
		t.Fatal(err)
	}
	if err := unix.Munmap(mem); err != nil {
		t.Fatal(err)
	}
	if exit := read(); exit.Reason != ExitMMIO || exit.MMIO.Addr != second {
		t.Errorf("without memory: %+v", exit)
	}
}

// A guest goes on in another VM where it was in the first.
func TestStateMoves(t *testing.T) {
	s := openSystem(t)
	indices, err := s.MSRIndices()
	if err != nil {
		t.Fatal(err)
	}
	code := map[uint64][]byte{guestCode: {
		0xe6, reportPort, // out reportPort, al
		0xff, 0xc0, // inc eax
		0xe6, reportPort, // out reportPort, al
	}}
	first := newGuestAPIC(t, s, code)
	if err := first.longMode(3, Regs{RAX: 41, R15: 0xfeed}); err != nil {
		t.Fatal(err)
	}
	step := func(g *microGuest, want byte) {
		t.Helper()
		exit, err := g.vcpu.runBounded(t.Context(), checkLimit)
		if err != nil || exit.Reason != ExitIO || !bytes.Equal(exit.IO.Data, []byte{want}) {
			t.Fatalf("exit %+v, %v; want %d", exit, err, want)
		}
	}
	step(first, 41)
	first.vcpu.Kick() // to complete the exit
	if _, err := first.vcpu.Run(); !errors.Is(err, ErrKicked) {
		t.Fatal(err)
	}
	state, err := first.vcpu.State(indices)
	if err != nil {
		t.Fatal(err)
	}
	if len(state.MSRs) == 0 || !state.HasLAPIC || state.Regs.R15 != 0xfeed {
		t.Fatalf("%d MSRs, LAPIC %v, registers %+v", len(state.MSRs), state.HasLAPIC, state.Regs)
	}
	second := newGuestAPIC(t, s, nil)
	copy(second.mem, first.mem)
	if err := second.vcpu.SetState(state); err != nil {
		t.Fatal(err)
	}
	step(second, 42)
	msrs, err := second.vcpu.MSRs(msrLSTAR, 0xdead0000, msrSTAR)
	if err != nil || len(msrs) != 2 || msrs[0] != (MSREntry{Index: msrLSTAR, Data: guestSystem}) || msrs[1].Index != msrSTAR {
		t.Errorf("MSRs %+v, %v", msrs, err)
	}
	step(first, 42) // which is no worse off
	if err := first.vcpu.ClockPaused(); err != nil {
		t.Error(err)
	}
}
