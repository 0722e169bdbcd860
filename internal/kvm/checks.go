package kvm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// check is an entry of the probe: what it asks is in its comment below.
type check struct {
	name   string
	needed bool // a kernel cannot run without it
	run    func(context.Context, *System) Check
}

const checkUserLoop = "ring-3 speed"

// checks in the order in which they are made; the first that fails gives the reason. They tell a
// processor's virtualisation from PVM (module kvm_pvm), which runs ring 3 on the processor but
// emulates ring 0 instruction by instruction, and from whatever else answers on /dev/kvm.
var checks = []check{
	capabilities(),
	// Does guest code run at all, and do exits carry its data? Passes under emulation too.
	guest("real mode", true, realModeOut),
	// Does ring 3 run on the processor? Said for the record: a micro-guest needs no more.
	guest(checkUserLoop, false, userLoop),
	// Does ring 0 run on the processor? The speed tells: about a nanosecond an instruction, against 600 of
	// an instruction emulator.
	guest("ring-0 speed", true, kernelLoop),
	// An instruction that every kernel uses (slab allocator) and KVM's emulator lacks.
	guest("ring-0 cmpxchg16b", true, cmpxchg16b),
	// The way into a process and back.
	guest("SYSRET and SYSCALL", true, sysret),
	// The way to idle.
	guest("ring-0 HLT", true, haltLong),
}

// capabilities asks for what a VMM for Linux guests cannot do without.
func capabilities() check {
	const name = "capabilities"
	needed := []struct {
		name string
		cap  Cap
	}{
		{"KVM_CAP_USER_MEMORY", CapUserMemory},
		{"KVM_CAP_SET_TSS_ADDR", CapSetTSSAddr},
		{"KVM_CAP_EXT_CPUID", CapExtCPUID},
		{"KVM_CAP_SIGNAL_MSI", CapSignalMSI},
		{"KVM_CAP_SPLIT_IRQCHIP", CapSplitIRQChip},
		{"KVM_CAP_IMMEDIATE_EXIT", CapImmediateExit},
	}
	return check{name: name, needed: true, run: func(_ context.Context, s *System) Check {
		var missing []string
		for _, n := range needed {
			v, err := s.Check(n.cap)
			if err != nil {
				return Check{Name: name, Detail: err.Error()}
			}
			if v == 0 {
				missing = append(missing, n.name)
			}
		}
		if len(missing) > 0 {
			return Check{Name: name, Detail: "missing: " + strings.Join(missing, ", ")}
		}
		return Check{Name: name, Pass: true, Detail: fmt.Sprintf("API version %d, all %d there", apiVersion, len(needed))}
	}}
}

// guest makes a check of a function that runs a micro-guest of its own and says what it saw.
func guest(name string, needed bool, f func(context.Context, *microGuest) (detail string, nanos float64, err error)) check {
	return check{name: name, needed: needed, run: func(ctx context.Context, s *System) Check {
		g, err := newMicroGuest(s, nil)
		if err != nil {
			return Check{Name: name, Detail: err.Error()}
		}
		detail, nanos, err := f(ctx, g)
		if !errors.Is(err, errStuck) { // a thread that is still in the guest needs its memory
			err = errors.Join(err, g.close())
		}
		if err != nil {
			return Check{Name: name, Detail: err.Error(), NanosPerInstruction: nanos}
		}
		return Check{Name: name, Pass: true, Detail: detail, NanosPerInstruction: nanos}
	}}
}

const (
	reportPort  = 0x10
	reportValue = 0x5a
)

// report is code that ends every guest: write reportValue to reportPort, then halt.
var report = []byte{
	0xb0, reportValue, // mov al, reportValue
	0xe6, reportPort, // out reportPort, al
	0xf4, // hlt
}

func codeThenReport(code ...byte) []byte { return append(code, report...) }

// expectReport runs the guest up to its report.
func (g *microGuest) expectReport(ctx context.Context) error {
	exit, err := g.vcpu.runBounded(ctx, checkLimit)
	if err != nil {
		return err
	}
	if exit.Reason != ExitIO || !exit.IO.Out || exit.IO.Port != reportPort || len(exit.IO.Data) != 1 || exit.IO.Data[0] != reportValue {
		return fmt.Errorf("the guest ended with: %v", exit)
	}
	return nil
}

func (g *microGuest) expectHalt(ctx context.Context) error {
	exit, err := g.vcpu.runBounded(ctx, checkLimit)
	if err != nil {
		return err
	}
	if exit.Reason != ExitHLT {
		return fmt.Errorf("HLT ended with: %v", exit)
	}
	return nil
}

func realModeOut(ctx context.Context, g *microGuest) (string, float64, error) {
	copy(g.mem[guestCode:], report)
	if err := g.realMode(); err != nil {
		return "", 0, err
	}
	return "port write seen", 0, g.expectReport(ctx)
}

const (
	loopRounds               = 20_000
	loopInstructions         = 2 * loopRounds
	loopTries                = 5
	nativeNanos      float64 = 100 // an instruction on the processor costs less, an emulated one more
	// slowerRing is how many times slower than ring 3 an emulated ring 0 is at least. Where the whole
	// machine is emulated around KVM, by a busy host, both are slow alike.
	slowerRing = 8
)

func userLoop(ctx context.Context, g *microGuest) (string, float64, error) {
	nanos, err := timedLoop(ctx, g, 3)
	if err != nil {
		return "", 0, err
	}
	if nanos >= nativeNanos {
		return "", nanos, fmt.Errorf("%.0f ns an instruction in ring 3: emulated, not run by the processor", nanos)
	}
	return perInstruction(nanos), nanos, nil
}

func kernelLoop(ctx context.Context, g *microGuest) (string, float64, error) {
	nanos, err := timedLoop(ctx, g, 0)
	if err != nil {
		return "", 0, err
	}
	if nanos >= nativeNanos {
		user, err := timedLoop(ctx, g, 3)
		if err != nil {
			return "", nanos, err
		}
		if nanos >= slowerRing*user {
			return "", nanos, fmt.Errorf("%.0f ns an instruction in ring 0, %.2g in ring 3: emulated, not run by the processor", nanos, user)
		}
	}
	return perInstruction(nanos), nanos, nil
}

func perInstruction(nanos float64) string { return fmt.Sprintf("%.2g ns an instruction", nanos) }

// timedLoop counts down in the given ring and returns the nanoseconds that an instruction takes, the best of
// a few runs, because a thread that lost its processor for a while looks slow too.
func timedLoop(ctx context.Context, g *microGuest, level uint8) (nanos float64, err error) {
	copy(g.mem[guestCode:], codeThenReport(
		0x48, 0xff, 0xc9, // dec rcx
		0x75, 0xfb, // jnz -5
	))
	best := time.Duration(-1)
	for range loopTries {
		if err := g.longMode(level, Regs{RCX: loopRounds}); err != nil {
			return 0, err
		}
		start := time.Now()
		if err := g.expectReport(ctx); err != nil {
			return 0, err
		}
		if d := time.Since(start); best < 0 || d < best {
			best = d
		}
	}
	return float64(best.Nanoseconds()) / loopInstructions, nil
}

func cmpxchg16b(ctx context.Context, g *microGuest) (string, float64, error) {
	copy(g.mem[guestCode:], codeThenReport(0xf0, 0x48, 0x0f, 0xc7, 0x0f)) // lock cmpxchg16b [rdi]
	const low, high = 0x1122334455667788, 0x99aabbccddeeff00
	// Memory is zero, as RDX:RAX is, so RCX:RBX must be stored.
	if err := g.longMode(0, Regs{RDI: guestData, RBX: low, RCX: high}); err != nil {
		return "", 0, err
	}
	if err := g.expectReport(ctx); err != nil {
		return "", 0, err
	}
	le := binary.LittleEndian
	if a, b := le.Uint64(g.mem[guestData:]), le.Uint64(g.mem[guestData+8:]); a != low || b != high {
		return "", 0, fmt.Errorf("it stored %#x, %#x", a, b)
	}
	return "executed", 0, nil
}

func sysret(ctx context.Context, g *microGuest) (string, float64, error) {
	copy(g.mem[guestCode:], []byte{0x48, 0x0f, 0x07}) // sysretq, to RCX with the flags in R11
	copy(g.mem[guestUser:], []byte{0x0f, 0x05})       // syscall, to LSTAR
	copy(g.mem[guestSystem:], report)
	if err := g.longMode(0, Regs{RCX: guestUser, R11: flagsFixed}); err != nil {
		return "", 0, err
	}
	return "to ring 3 and back", 0, g.expectReport(ctx)
}

func haltLong(ctx context.Context, g *microGuest) (string, float64, error) {
	copy(g.mem[guestCode:], report)
	if err := g.longMode(0, Regs{}); err != nil {
		return "", 0, err
	}
	if err := g.expectReport(ctx); err != nil {
		return "", 0, err
	}
	return "halts", 0, g.expectHalt(ctx)
}
