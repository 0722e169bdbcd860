package machine

import (
	"testing"

	"github.com/aethervm/aether/internal/guestmem"
)

// Whatever a guest has done to its devices, what the machine then says of itself can be given to a
// copy: no guest can keep itself from being saved, and no copy of it hurts the host.
func TestHostileStates(t *testing.T) {
	family := newFamily(t)
	n := newNeighbour(t)
	a := noisy(t)
	for i, c := range a.code {
		a.code[i] = forever(c, increment(rounds(i)))
	}
	m, mem := prepare(t, Config{Devices: a.devices}, a.code, a.ram)
	content := make([]byte, microMemory)
	for range 10 {
		a.someRounds(t, m, mem, 1)
		within(t, "Pause", m.Pause)
		s, err := m.State(family.msrs)
		if err != nil {
			t.Fatal(err)
		}
		if err := mem.ReadAt(content, 0); err != nil {
			t.Fatal(err)
		}
		within(t, "Resume", m.Resume)
		a.copyOf(t, family, s, content)
		n.goesOn(t)
	}
}

// copyOf lets a copy of the machine run for a while.
func (a attack) copyOf(t *testing.T, family *family, s *State, content []byte) {
	t.Helper()
	mem, err := guestmem.New(microMemory, guestmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	if err := mem.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	m, err := New(Config{System: family.system, Memory: mem, VCPUs: len(a.code), Devices: everyDevice(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		within(t, "Close", func() {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
	}()
	if err := m.Restore(s); err != nil {
		t.Fatal(err)
	}
	within(t, "Resume", m.Resume)
	a.someRounds(t, m, mem, 1)
	within(t, "Pause", m.Pause)
}
