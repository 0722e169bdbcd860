package vmm

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/aethervm/aether/internal/codec"
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/snapshot"
)

// saveOn writes a snapshot to a file that leans on one that its first layer is.
func saveOn(t *testing.T, s *Snapshot, base *snapshot.File, change func(*layout)) *snapshot.File {
	t.Helper()
	size := s.image.Size()
	state, layers := encoded(t, s)
	path := filepath.Join(t.TempDir(), "machine")
	w, err := snapshot.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	number := -1
	for i, l := range layers {
		if same, err := sameFile(l, base.File()); err != nil {
			t.Fatal(err)
		} else if same {
			number = i
		}
	}
	saved, err := SaveMemory(t.Context(), w, state, layers, size, number)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		d := codec.NewDecoder(saved)
		l, err := decodeLayout(d)
		if err != nil {
			t.Fatal(err)
		}
		change(&l)
		saved = append(l.append(nil), d.Rest()...)
	}
	if _, err := w.Finish(snapshot.About{VCPUs: 1, MemoryMiB: uint32(size >> 20), Bases: [][32]byte{base.Sum()}}, saved, nil); err != nil {
		t.Fatal(err)
	}
	f, err := snapshot.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func sameFile(a, b *os.File) (bool, error) {
	x, err := a.Stat()
	y, err2 := b.Stat()
	if err := errors.Join(err, err2); err != nil {
		return false, err
	}
	return os.SameFile(x, y), nil
}

// A copy of a snapshot on disk that has written to some of its memory is saved without the rest, and is whole again with it.
func TestSavedOnBase(t *testing.T) {
	path := saveExample(t, exampleSnapshot(t))
	base, err := snapshot.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	first, _ := openExample(t, path)
	mem, err := first.image.Fork(guestmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	pages, err := guestmem.OpenPagemap()
	if err != nil {
		t.Fatal(err)
	}
	defer pages.Close()
	if err := errors.Join(mem.WriteAt([]byte("newer"), 200<<10), mem.WriteAt(make([]byte, 16), 100<<10)); err != nil {
		t.Fatal(err)
	}
	image, err := imageOf(mem, pages)
	if err != nil {
		t.Fatal(err)
	}
	copied := &Snapshot{image: image, machine: first.machine, state: first.state}
	defer copied.Close()
	state, layers := encoded(t, copied)
	shared, err := SharedMemory(state, len(layers), 1<<20)
	if err != nil || len(shared) != len(layers) || len(shared) < 2 {
		t.Fatalf("%v, %v", shared, err)
	}

	f := saveOn(t, copied, base, nil)
	if _, size := f.Memory(); size > 64<<10 {
		t.Errorf("%d bytes were written", size)
	}
	if _, err := SavedState(f, 1<<20); !errors.Is(err, ErrSnapshot) {
		t.Errorf("without its base: %v", err)
	}
	if state, err = SavedState(f, 1<<20, base); err != nil {
		t.Fatal(err)
	}
	again, err := OpenSnapshot(state, dup(t, []*os.File{f.File(), base.File()}))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	got, err := again.image.Fork(guestmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	for at, want := range map[uint64]string{0: "content", 100 << 10: "\x00\x00\x00\x00\x00\x00\x00", 200 << 10: "newernt", 300 << 10: "\x00\x00\x00\x00\x00\x00\x00"} {
		var word [7]byte
		if err := got.ReadAt(word[:], at); err != nil || string(word[:]) != want {
			t.Errorf("at %#x: %q, %v, want %q", at, word, err, want)
		}
	}

	// What says that it is elsewhere than in the memory of these files is refused.
	for name, change := range map[string]func(*layout){
		"a file that there is not": func(l *layout) { l.extents[0].Layer = 2 },
		"the header of the base":   func(l *layout) { l.extents[0].Layer, l.extents[0].Offset = 1, 0 },
		"beyond the base's memory": func(l *layout) { l.extents[0].Layer, l.extents[0].Offset = 1, 1<<20 },
	} {
		bad := saveOn(t, copied, base, change)
		if _, err := SavedState(bad, 1<<20, base); !errors.Is(err, ErrSnapshot) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := SharedMemory(state, 1, 1<<20); !errors.Is(err, ErrSnapshot) {
		t.Errorf("fewer layers than it names: %v", err)
	}
}

// A copy that has written here and there leaves, when it is saved, room for what its own copies write: a branch of one takes
// what was written, and little more.
func TestBranchOnBases(t *testing.T) {
	const size, pageCount = 84 << 20, 84 << 20 / guestmem.PageSize
	pages, err := guestmem.OpenPagemap()
	if err != nil {
		t.Fatal(err)
	}
	defer pages.Close()
	r := rand.New(rand.NewPCG(1, 2))
	write := func(mem *guestmem.Memory, n int) {
		for range n {
			if err := mem.WriteAt([]byte{1, 2, 3}, uint64(r.IntN(pageCount))*guestmem.PageSize); err != nil {
				t.Fatal(err)
			}
		}
	}
	like := exampleSnapshot(t)
	branched := func(mem *guestmem.Memory) *Snapshot {
		image, err := imageOf(mem, pages)
		if err != nil {
			t.Fatal(err)
		}
		s := &Snapshot{image: image, machine: like.machine, state: like.state}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	mem, err := guestmem.New(size, guestmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(pageCount) {
		if err := mem.WriteAt([]byte{byte(i), 1}, i*guestmem.PageSize); err != nil {
			t.Fatal(err)
		}
	}
	whole := branched(mem)
	if err := mem.Close(); err != nil {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "machine")
	w, err := snapshot.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	state, layers := encoded(t, whole)
	if state, err = SaveMemory(t.Context(), w, state, layers, size); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(snapshot.About{VCPUs: 1, MemoryMiB: size >> 20}, state, nil); err != nil {
		t.Fatal(err)
	}
	base, err := snapshot.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()

	// fork opens files and makes memory of them.
	fork := func(f *snapshot.File, bases ...*snapshot.File) *guestmem.Memory {
		state, err := SavedState(f, size, bases...)
		if err != nil {
			t.Fatal(err)
		}
		files := []*os.File{f.File()}
		for _, b := range bases {
			files = append(files, b.File())
		}
		s, err := OpenSnapshot(state, dup(t, files))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		mem, err := s.image.Fork(guestmem.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = mem.Close() })
		return mem
	}
	copied := fork(base)
	write(copied, 500)
	f := saveOn(t, branched(copied), base, nil)
	_, written := f.Memory()
	restored := fork(f, base)
	write(restored, 20)
	again := branched(restored)
	var own uint64
	for _, e := range again.image.Extents() {
		info, err := e.Layer.File().Stat()
		if err != nil {
			t.Fatal(err)
		}
		if !sameAs(t, info, f.File()) && !sameAs(t, info, base.File()) {
			own += e.Size
		}
	}
	t.Logf("%d pages written: %d KiB in the file, %d extents; 20 more: %d KiB in a layer", 500, written>>10, len(again.image.Extents()), own>>10)
	if own > 1<<20 {
		t.Errorf("20 pages were written; the branch has copied %d bytes", own)
	}
}

func sameAs(t *testing.T, info os.FileInfo, f *os.File) bool {
	t.Helper()
	other, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return os.SameFile(info, other)
}
