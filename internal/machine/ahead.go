package machine

import (
	"runtime"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/kvm"
)

// aheadChunk is how much is mapped at a time, in bytes: Resume waits for no more than one.
const aheadChunk = 64 * guestmem.PageSize

// MapAhead fills the guest's page tables for runs of RAM, so that it needs no exit when it first uses them: in a machine that
// is paused, until it is resumed, which ends it. The pages should be mapped on the host, the written ones for writing. It is a
// wish: a kernel before Linux 6.11 cannot do it, and what cannot be mapped is left to the guest's own use.
func (m *Machine) MapAhead(list []guestmem.Touched) {
	if has, err := m.vm.Check(kvm.CapPreFaultMemory); err != nil || has == 0 {
		return
	}
	ranges := m.mem.Ranges()
	for _, t := range list {
		for done := uint64(0); done < t.Size; {
			gpa, size := place(ranges, t.RAM+done, min(t.Size-done, aheadChunk))
			if size == 0 {
				break // outside of RAM
			}
			n, ok := m.mapAhead(gpa, size)
			if !ok {
				return
			}
			done += n
			runtime.Gosched() // somebody may want to resume it
		}
	}
}

// mapAhead maps what it can of one chunk. It tells whether to go on.
func (m *Machine) mapAhead(gpa, size uint64) (done uint64, ok bool) {
	m.gate.Lock() // nobody resumes it meanwhile
	defer m.gate.Unlock()
	m.mu.Lock()
	still := m.paused > 0 && m.running == 0 && m.state == started
	m.mu.Unlock()
	if !still {
		return 0, false
	}
	done, err := m.vcpus[0].PreFault(gpa, size)
	return done, err == nil
}

// place is where a run of RAM is in the guest's address space, and how much of it lies in one piece.
func place(ranges []guestmem.Range, ram, size uint64) (gpa, n uint64) {
	for _, r := range ranges {
		if ram < r.Size {
			return r.GPA + ram, min(size, r.Size-ram)
		}
		ram -= r.Size
	}
	return 0, 0
}
