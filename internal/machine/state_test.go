package machine

import (
	"bytes"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/microguest"
)

// family makes copies of a machine.
type family struct {
	system  *kvm.System
	msrs    []uint32
	pagemap *guestmem.Pagemap
}

func newFamily(t testing.TB) *family {
	t.Helper()
	f := &family{system: openSystem(t)}
	var err error
	if f.msrs, err = f.system.MSRIndices(); err != nil {
		t.Fatal(err)
	}
	if f.pagemap, err = guestmem.OpenPagemap(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.pagemap.Close() })
	return f
}

// branch takes what a paused machine is.
func (f *family) branch(t testing.TB, m *Machine) (*guestmem.Image, *State) {
	t.Helper()
	s, err := m.State(f.msrs)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.mem.Split(f.pagemap); err != nil {
		t.Fatal(err)
	}
	image, err := m.mem.Image(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = image.Close() })
	return image, s
}

// copy makes a paused copy.
func (f *family) copy(t testing.TB, image *guestmem.Image, s *State) *Machine {
	t.Helper()
	mem, err := image.Fork(guestmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(Config{System: f.system, Memory: mem, VCPUs: len(s.VCPUs)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(m.Close(), mem.Close()); err != nil {
			t.Error(err)
		}
	})
	if err := m.Restore(s); err != nil {
		t.Fatal(err)
	}
	return m
}

// counted is what the guest of the code "count" has counted to.
func counted(t testing.TB, m *Machine) uint32 {
	t.Helper()
	v, err := m.mem.LoadUint32(microData)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// counts waits until the guest has counted on from a number.
func counts(t testing.TB, m *Machine, from uint32) {
	t.Helper()
	for deadline := time.Now().Add(endTimeout); counted(t, m) == from; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the guest stands at %d", from)
		}
	}
}

// TestCopiesGoOnFromTheSameInstant: a branch of a running machine, of a copy of it, and so on.
func TestCopiesGoOnFromTheSameInstant(t *testing.T) {
	f := newFamily(t)
	m, _ := start(t, Config{}, count...)
	counts(t, m, 0)
	for depth := range 5 {
		m.Pause()
		at := counted(t, m)
		image, s := f.branch(t, m)
		child, idle := f.copy(t, image, s), f.copy(t, image, s)
		if got := counted(t, child); got != at {
			t.Fatalf("depth %d: the child begins at %d, its parent was at %d", depth, got, at)
		}
		m.Resume()
		counts(t, m, at)
		if got := counted(t, child); got != at {
			t.Fatalf("depth %d: the parent's count shows in the child: %d, not %d", depth, got, at)
		}
		m.Pause()
		parentAt := counted(t, m)
		child.Resume()
		counts(t, child, at)
		if got := counted(t, m); got != parentAt {
			t.Fatalf("depth %d: the child's count shows in the parent: %d, not %d", depth, got, parentAt)
		}
		m.Resume()
		if got := counted(t, idle); got != at {
			t.Fatalf("depth %d: a copy that never ran is at %d, not %d", depth, got, at)
		}
		m = child
	}
}

// TestCopyEndsAsTheOriginalWould: the registers and the devices of the board are the same.
func TestCopyEndsAsTheOriginalWould(t *testing.T) {
	f := newFamily(t)
	// Wait for a byte in memory, then say something and switch off.
	code := []byte{
		0x80, 0x3c, 0x25, microData & 0xff, microData >> 8 & 0xff, microData >> 16, 0, 0, // cmp byte [microData], 0
		0x74, 0xf6, // je back
	}
	code = append(append(code, microguest.Say("went on")...), microguest.PowerOff()...)
	var console bytes.Buffer
	m, _ := start(t, Config{Console: &console}, code...)
	m.Pause()
	image, s := f.branch(t, m)
	m.Resume()
	child := f.copy(t, image, s)
	child.Resume()
	for name, one := range map[string]*Machine{"parent": m, "child": child} {
		if err := one.mem.WriteAt([]byte{1}, microData); err != nil {
			t.Fatal(err)
		}
		if end := wait(t, one); end.Reason != PoweredOff || string(one.Console()) != "went on" {
			t.Errorf("the %s: %v, %q", name, end, one.Console())
		}
	}
	if _, err := m.State(f.msrs); err == nil {
		t.Error("the state of a machine that has ended was read")
	}
}

func TestRestoreRefusesWhatDoesNotFit(t *testing.T) {
	f := newFamily(t)
	m, _ := start(t, Config{}, count...)
	if _, err := m.State(f.msrs); err == nil {
		t.Error("the state of a running machine was read")
	}
	m.Pause()
	image, s := f.branch(t, m)
	if err := m.Restore(s); err == nil {
		t.Error("a machine that runs was given a state")
	}
	for name, change := range map[string]func(*State){
		"vCPUs":   func(s *State) { s.VCPUs = append(s.VCPUs[:1:1], s.VCPUs[0]) },
		"devices": func(s *State) { s.Transports = append(s.Transports, s.Transports...); s.VCPUs = nil },
		"ioapic":  func(s *State) { s.IOAPIC.Entries[3] = 1 << 12 },
		"serial":  func(s *State) { s.Serial.Loopback = make([]byte, 17) },
	} {
		bad := *s
		change(&bad)
		mem, err := image.Fork(guestmem.Options{})
		if err != nil {
			t.Fatal(err)
		}
		other, err := New(Config{System: f.system, Memory: mem, VCPUs: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Restore(&bad); !errors.Is(err, ErrState) {
			t.Errorf("%s: %v", name, err)
		}
		if err := errors.Join(other.Close(), mem.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestWritesNeverShowAcross: a parent that writes all the time, and children that read what they
// inherited and write themselves, over many rounds.
func TestWritesNeverShowAcross(t *testing.T) {
	f := newFamily(t)
	// Write a number that grows to each page of the data area, over and over.
	const pages = 64
	code := []byte{
		0x48, 0xff, 0xc0, // 0: inc rax
		0xbf, microStore & 0xff, microStore >> 8 & 0xff, microStore >> 16, 0, // 3: mov edi, microStore
		0xb9, pages, 0, 0, 0, // 8: mov ecx, pages
		0x48, 0x89, 0x07, // 13: mov [rdi], rax
		0x48, 0x81, 0xc7, 0, 0x10, 0, 0, // 16: add rdi, 4096
		0xff, 0xc9, // 23: dec ecx
		0x75, 0xf2, // 25: jnz 13
		0xeb, 0xe3, // 27: jmp 0
	}
	m, _ := start(t, Config{}, code...)
	read := func(m *Machine) []uint64 {
		var v []uint64
		for page := range uint64(pages) {
			n, err := m.mem.LoadUint64(microStore + page*guestmem.PageSize)
			if err != nil {
				t.Fatal(err)
			}
			v = append(v, n)
		}
		return v
	}
	rounds := 100
	if testing.Short() {
		rounds = 10
	}
	for round := range rounds {
		m.Pause()
		want := read(m)
		image, s := f.branch(t, m)
		child := f.copy(t, image, s)
		m.Resume()
		parent := read(m)
		if got := read(child); !slices.Equal(got, want) {
			t.Fatalf("round %d: a child inherits %v, its parent had %v", round, got, want)
		}
		child.Resume()
		for deadline := time.Now().Add(endTimeout); slices.Equal(read(child), want); {
			if time.Now().After(deadline) {
				t.Fatalf("round %d: the child does not run", round)
			}
		}
		for i, n := range read(m) {
			if n < parent[i] {
				t.Fatalf("round %d: page %d of the parent went back from %d to %d", round, i, parent[i], n)
			}
		}
		next := child
		if round%2 == 0 {
			next = m
		}
		if next == child {
			_ = m.Close()
		} else {
			_ = child.Close()
		}
		m = next
		if err := image.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

const microStore = 0x100000

// BenchmarkFork is the time from an image and a state to the first thing that the copy does, with
// everything that a machine has.
func BenchmarkFork(b *testing.B) {
	f := newFamily(b)
	cfg := Config{System: f.system, VCPUs: 1}
	code := append(append([]byte{}, microguest.Say("x")...), 0xeb, 0xf7) // for ever: what jmp leads to is the out instruction
	m, _ := start(b, Config{}, code...)
	m.Pause()
	image, s := f.branch(b, m)
	for b.Loop() {
		mem, err := image.Fork(guestmem.Options{})
		if err != nil {
			b.Fatal(err)
		}
		first := make(chan struct{})
		var once atomic.Bool
		cfg.Memory, cfg.Console = mem, writerFunc(func(p []byte) (int, error) {
			if !once.Swap(true) {
				close(first)
			}
			return len(p), nil
		})
		child, err := New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		if err := child.Restore(s); err != nil {
			b.Fatal(err)
		}
		child.Resume()
		<-first
		b.StopTimer()
		if err := errors.Join(child.Close(), mem.Close()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
