package vmm

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/aethervm/aether/internal/codec"
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/snapshot"
)

// saveExample writes a snapshot to a file, with a prefetch list.
func saveExample(t testing.TB, s *Snapshot) string {
	t.Helper()
	state, layers := encoded(t, s)
	path := filepath.Join(t.TempDir(), "machine")
	w, err := snapshot.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	saved, err := SaveMemory(t.Context(), w, state, layers, 1<<20)
	if err != nil {
		t.Fatal(errors.Join(err, w.Abort()))
	}
	if _, err := w.Finish(snapshot.About{VCPUs: 1, MemoryMiB: 1}, saved, []snapshot.Run{{RAM: guestmem.PageSize, Size: 2 * guestmem.PageSize, Write: true}}); err != nil {
		t.Fatal(err)
	}
	return path
}

// openExample opens it, as a process that was given the file.
func openExample(t testing.TB, path string) (*Snapshot, []byte) {
	t.Helper()
	f, err := snapshot.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	state, err := SavedState(f, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenSnapshot(state, dup(t, []*os.File{f.File()}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, state
}

// What is on disk is what was in memory, and can be saved again.
func TestSavedSnapshot(t *testing.T) {
	s := exampleSnapshot(t)
	before := filesOpen(t)
	first, _ := openExample(t, saveExample(t, s))
	if first.VCPUs() != 1 || !first.Network() || len(first.prefetch) != 1 || !first.prefetch[0].Written {
		t.Errorf("it has become %+v", first)
	}
	second, state := openExample(t, saveExample(t, first))
	for _, got := range []*Snapshot{first, second} {
		mem, err := got.image.Fork(guestmem.Options{})
		if err != nil {
			t.Fatal(err)
		}
		mem.Prefetch(got.prefetch)
		var word, zeros [7]byte
		for i := range uint64(3) {
			if err := mem.ReadAt(word[:], i*100<<10); err != nil || string(word[:]) != "content" {
				t.Errorf("%q, %v", word, err)
			}
			if err := mem.ReadAt(word[:], i*100<<10+50); err != nil || word != zeros {
				t.Errorf("%q, %v", word, err)
			}
		}
		if err := mem.Close(); err != nil {
			t.Error(err)
		}
	}
	// Of the layout all is held to its bounds by who reads it first.
	d := codec.NewDecoder(state)
	l, err := decodeLayout(d)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.extents) < 2 {
		t.Fatalf("the example has %d extents, so that none can overlap", len(l.extents))
	}
	for name, change := range map[string]func(*extentRecord){
		"overlap":     func(e *extentRecord) { e.RAM = 0 },
		"half a page": func(e *extentRecord) { e.Size += 512 },
		"empty":       func(e *extentRecord) { e.Size = 0 },
		"beyond":      func(e *extentRecord) { e.RAM = 1 << 20 },
		"across":      func(e *extentRecord) { e.Size = 1 << 20 },
		"wraps":       func(e *extentRecord) { e.Size = 1<<64 - guestmem.PageSize },
		"far offset":  func(e *extentRecord) { e.Offset = 1 << 63 },
	} {
		bad := l
		bad.extents = append([]extentRecord(nil), l.extents...)
		change(&bad.extents[len(bad.extents)-1])
		if _, _, err := splitState(append(bad.append(nil), d.Rest()...), 1<<20); !errors.Is(err, ErrSnapshot) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Error(err)
	}
	if after := filesOpen(t); after != before {
		t.Errorf("%d files are open, %d before", after, before)
	}
}

// A state that names memory outside of the file's is refused before anything is mapped.
func TestSavedStateRefuses(t *testing.T) {
	s := exampleSnapshot(t)
	state, layers := encoded(t, s)
	for name, change := range map[string]func(*layout){
		"the header":    func(l *layout) { l.extents[0].Offset = 0 },
		"what follows":  func(l *layout) { l.extents[0].Offset = 1 << 30 },
		"another layer": func(l *layout) { l.extents[0].Layer = 1 },
		"other memory":  func(l *layout) { l.size = 2 << 20 },
	} {
		path := filepath.Join(t.TempDir(), "machine")
		w, err := snapshot.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		saved, err := SaveMemory(t.Context(), w, state, layers, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		d := codec.NewDecoder(saved)
		l, err := decodeLayout(d)
		if err != nil {
			t.Fatal(err)
		}
		change(&l)
		if _, err := w.Finish(snapshot.About{MemoryMiB: 1}, append(l.append(nil), d.Rest()...), nil); err != nil {
			t.Fatal(err)
		}
		f, err := snapshot.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := SavedState(f, 1<<20); !errors.Is(err, ErrSnapshot) {
			t.Errorf("%s: %v", name, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	w, err := snapshot.Create(filepath.Join(t.TempDir(), "machine"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Abort() }()
	if _, err := SaveMemory(t.Context(), w, state, layers[:1], 1<<20); !errors.Is(err, ErrSnapshot) {
		t.Errorf("a layer less: %v", err)
	}
	if _, err := SaveMemory(t.Context(), w, state, layers, 1<<21); !errors.Is(err, ErrSnapshot) {
		t.Errorf("other memory: %v", err)
	}
}

// FuzzLayout: what an owner reads of a state is within RAM, or an error; and it does not change what it does not read.
func FuzzLayout(f *testing.F) {
	state, _ := encoded(f, exampleSnapshot(f))
	f.Add(state)
	f.Add(state[:60])
	f.Fuzz(func(t *testing.T, b []byte) {
		const memory = 1 << 20
		l, rest, err := splitState(b, memory)
		if err != nil {
			if !errors.Is(err, ErrSnapshot) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		if !bytes.HasSuffix(b, rest) || len(l.extents) > guestmem.MaxExtents || len(l.prefetch) > maxPrefetch {
			t.Fatalf("%d extents, %d bytes left", len(l.extents), len(rest))
		}
		at := uint64(0)
		for _, e := range l.extents {
			if e.RAM < at || e.RAM+e.Size > memory || e.Size == 0 || int64(e.Offset+e.Size) < 0 {
				t.Fatalf("extent %+v", e)
			}
			at = e.RAM + e.Size
		}
		if again := append(l.append(nil), rest...); !bytes.Equal(again, b) {
			t.Fatalf("%x has become %x", b, again)
		}
	})
}
