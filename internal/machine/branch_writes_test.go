package machine

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/testenv"
)

// testRounds is how often something is tried that must never go wrong: AETHER_TEST_ROUNDS, or a few times.
func testRounds(t testing.TB) int {
	t.Helper()
	return testenv.Number(t, "AETHER_TEST_ROUNDS", 20)
}

// The guest of TestNobodySeesLaterWrites. Each vCPU has an area, a place for a copy of it, and a page of counters, whose
// addresses are in registers: R14, R12 and R15. R13 is the area's size in words of eight bytes.
const (
	areaMemory  = 8 << 20
	areaSize    = 32 * guestmem.PageSize
	areaStart   = 2 << 20
	areaCopies  = 4 << 20
	areaPasses  = 8  // in the page of counters: how often the loop was gone through
	areaChanges = 16 // how often something was not as it must be
)

// areaReader copies the area, and compares it with the copy for ever.
var areaReader = []byte{
	0x4c, 0x89, 0xf6, 0x4c, 0x89, 0xe7, 0x4c, 0x89, 0xe9, 0xf3, 0x48, 0xa5, // mov rsi, r14; mov rdi, r12; mov rcx, r13; rep movsq
	0x4c, 0x89, 0xf6, 0x4c, 0x89, 0xe7, 0x4c, 0x89, 0xe9, 0xf3, 0x48, 0xa7, // the same with repe cmpsq
	0x74, 0x04, // je over the next
	0x49, 0xff, 0x47, areaChanges, // inc qword [r15 + areaChanges]
	0x49, 0xff, 0x47, areaPasses,
	0xeb, 0xe8, // jmp to the comparison
}

// areaWriter fills the area with a number, looks whether it is there, and goes on with the next number, in R11.
var areaWriter = []byte{
	0x49, 0xff, 0xc3, 0x4c, 0x89, 0xd8, // inc r11; mov rax, r11
	0x4c, 0x89, 0xf7, 0x4c, 0x89, 0xe9, 0xf3, 0x48, 0xab, // mov rdi, r14; mov rcx, r13; rep stosq
	0x4c, 0x89, 0xf7, 0x4c, 0x89, 0xe9, 0xf3, 0x48, 0xaf, // the same with repe scasq
	0x74, 0x04,
	0x49, 0xff, 0x47, areaChanges,
	0x49, 0xff, 0x47, areaPasses,
	0xeb, 0xdc, // jmp to the start
}

const areaReaderAt, areaWriterAt = microCode, microCode + 0x100

func areaCounters(vcpu int) uint64 { return microData + uint64(vcpu)*guestmem.PageSize }

// areaRegs has a vCPU read its area, or write to it numbers that begin with the tag.
func areaRegs(r kvm.Regs, vcpu int, writes bool, tag uint64) kvm.Regs {
	r.RIP, r.R11 = areaReaderAt, tag<<40
	if writes {
		r.RIP = areaWriterAt
	}
	r.R12, r.R13 = areaCopies+uint64(vcpu)*areaSize, areaSize/8
	r.R14, r.R15 = areaStart+uint64(vcpu)*areaSize, areaCounters(vcpu)
	r.RFLAGS &^= 1 << 10 // upwards
	return r
}

// startAreas makes a paused machine whose vCPUs all run.
func startAreas(t *testing.T, f *family, vcpus int) *Machine {
	t.Helper()
	mem := newMemory(t, areaMemory)
	cpu := loadMicro(t, mem, areaReader...)
	if err := mem.WriteAt(areaWriter, areaWriterAt); err != nil {
		t.Fatal(err)
	}
	first, err := New(Config{System: f.system, Memory: mem, VCPUs: vcpus})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	cpu.RIP = areaWriterAt // with an area of no size
	if err := first.Start(cpu); err != nil {
		t.Fatal(err)
	}
	first.Pause()
	image, s := f.branch(t, first)
	for i, own := range s.VCPUs {
		// As the first one, which runs: nobody has started the others.
		v := *s.VCPUs[0]
		if i > 0 {
			v.Sregs.APICBase, v.HasLAPIC = own.Sregs.APICBase, false
		}
		v.Regs = areaRegs(v.Regs, i, true, 0)
		s.VCPUs[i] = &v
	}
	return f.copy(t, image, s)
}

// areaCopy makes a paused copy whose vCPUs do something else.
func (f *family) areaCopy(t *testing.T, image *guestmem.Image, s *State, writes bool, tag uint64) *Machine {
	t.Helper()
	other := *s
	other.VCPUs = nil
	for i, v := range s.VCPUs {
		changed := *v
		changed.Regs = areaRegs(changed.Regs, i, writes, tag)
		other.VCPUs = append(other.VCPUs, &changed)
	}
	return f.copy(t, image, &other)
}

// areaTurn has a paused machine do something else.
func areaTurn(t *testing.T, m *Machine, writes bool, tag uint64) {
	t.Helper()
	for i, vcpu := range m.vcpus {
		r, err := vcpu.Regs()
		if err == nil {
			err = vcpu.SetRegs(areaRegs(r, i, writes, tag))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func areaBytes(t *testing.T, m *Machine, from uint64) []byte {
	t.Helper()
	b := make([]byte, len(m.vcpus)*areaSize)
	if err := m.mem.ReadAt(b, from); err != nil {
		t.Fatal(err)
	}
	return b
}

func areaCount(t *testing.T, m *Machine, vcpu int, counter uint64) uint64 {
	t.Helper()
	n, err := m.mem.LoadUint64(areaCounters(vcpu) + counter)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// areasRun lets machines run until each of their vCPUs has gone through its loop a few times, and pauses them.
func areasRun(t *testing.T, all ...*Machine) {
	t.Helper()
	const passes = 3
	from := map[*Machine][]uint64{}
	for _, m := range all {
		for i := range m.vcpus {
			from[m] = append(from[m], areaCount(t, m, i, areaPasses))
		}
	}
	for _, m := range all {
		m.Resume()
	}
	deadline := time.Now().Add(endTimeout)
	for _, m := range all {
		for i := range m.vcpus {
			for areaCount(t, m, i, areaPasses) < from[m][i]+passes {
				if time.Now().After(deadline) {
					t.Fatalf("vCPU %d stands still", i)
				}
				time.Sleep(50 * time.Microsecond)
			}
		}
	}
	for _, m := range all {
		m.Pause()
	}
}

// TestNobodySeesLaterWrites: the guest of an original that writes all its data all the time, of a copy that compares what
// it has inherited, byte for byte, with what it had at first, and of a copy that writes other numbers; and in every second
// round an original that compares while its copies write. Each looks by itself, through its own page tables.
func TestNobodySeesLaterWrites(t *testing.T) {
	for _, vcpus := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d vCPUs", vcpus), func(t *testing.T) { testNobodySeesLaterWrites(t, vcpus, testRounds(t)) })
	}
}

func testNobodySeesLaterWrites(t *testing.T, vcpus, rounds int) {
	f := newFamily(t)
	m := startAreas(t, f, vcpus)
	begin := time.Now()
	for round := range rounds {
		tag := uint64(round) * 4
		areaTurn(t, m, true, tag+1)
		areasRun(t, m)
		want := areaBytes(t, m, areaStart)
		image, s := f.branch(t, m)
		reads := round%2 == 1
		if reads {
			areaTurn(t, m, false, 0)
		}
		reader, writer := f.areaCopy(t, image, s, false, 0), f.areaCopy(t, image, s, true, tag+2)
		areasRun(t, m, reader, writer)
		for name, one := range map[string]*Machine{"original": m, "copy that reads": reader, "copy that writes": writer} {
			for i := range vcpus {
				if n := areaCount(t, one, i, areaChanges); n != 0 {
					t.Fatalf("round %d: vCPU %d of the %s has seen %d changes that were not its own", round, i, name, n)
				}
			}
			if one == writer || one == m && !reads {
				if bytes.Equal(areaBytes(t, one, areaStart), want) {
					t.Fatalf("round %d: the %s has written nothing", round, name)
				}
				continue
			}
			for what, at := range map[string]uint64{"inherited": areaCopies, "has": areaStart} {
				if !bytes.Equal(areaBytes(t, one, at), want) {
					t.Fatalf("round %d: what the %s %s is not what there was", round, name, what)
				}
			}
		}
		family := []*Machine{m, reader, writer}
		m = family[round%3]
		for _, one := range family {
			if one != m {
				if err := errors.Join(one.Close(), one.mem.Close()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := image.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d rounds in %v", rounds, time.Since(begin).Round(time.Millisecond))
}
