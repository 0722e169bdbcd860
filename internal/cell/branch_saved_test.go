package cell

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/vmm"
)

// save writes a branch to a file.
func save(t testing.TB, b *Branch, prefetch []snapshot.Run) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "machine")
	w, err := snapshot.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	state, err := b.Save(t.Context(), w)
	if err != nil {
		t.Fatal(errors.Join(err, w.Abort()))
	}
	if _, err := w.Finish(snapshot.About{VCPUs: 1, MemoryMiB: uint32(b.MemoryMiB())}, state, prefetch); err != nil {
		t.Fatal(err)
	}
	return path
}

// open makes a branch of a file.
func open(t testing.TB, path string) *Branch {
	t.Helper()
	f, err := snapshot.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	state, err := vmm.SavedState(f, uint64(f.About.MemoryMiB)<<20)
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenSaved(Saved{VCPUs: 1, MemoryMiB: int(f.About.MemoryMiB), State: state, Memory: f.File()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// A branch on disk outlives its cell and its file's name; cells of it can be branched and saved again.
func TestSavedBranch(t *testing.T) {
	parent := startGuest(t, nil, chatter())
	waitConsole(t, parent, "on")
	b, err := parent.Branch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first := save(t, b, nil)
	if err := errors.Join(b.Close(), parent.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Save(t.Context(), nil); !errors.Is(err, ErrConfig) {
		t.Errorf("a closed branch is saved: %v", err)
	}
	before := count(t, "/proc/self/fd")
	opened := open(t, first)
	child := startFrom(t, opened, "-1")
	waitConsole(t, child, "on")
	if slices.Contains(child.Console(), "up") {
		t.Error("the child has begun anew")
	}
	touched, err := child.Touched(t.Context())
	if err != nil || len(touched) == 0 {
		t.Fatalf("%+v, %v", touched, err)
	}
	b, err = child.Branch(t.Context())
	if err != nil {
		t.Fatalf("branch of a restored cell: %v", err)
	}
	if child.layered() > 64<<20 {
		t.Errorf("it is charged for %d bytes of layers", child.layered())
	}
	second := save(t, b, touched)
	direct := startFrom(t, b, "-2")
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	saved := open(t, second)
	if err := os.Remove(second); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Cell{direct, startFrom(t, saved, "-3"), startFrom(t, saved, "-4")} {
		waitConsole(t, c, "on")
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(child.Close(), saved.Close(), opened.Close()); err != nil {
		t.Error(err)
	}
	if after := count(t, "/proc/self/fd"); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	if _, err := child.Touched(t.Context()); !errors.Is(err, ErrEnded) {
		t.Errorf("a closed cell: %v", err)
	}
}

// What a saved state says is not believed: the cell refuses it before it has a machine.
func TestSavedBranchRefuses(t *testing.T) {
	parent := startGuest(t, nil, chatter())
	waitConsole(t, parent, "on")
	b, err := parent.Branch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f, err := snapshot.Open(save(t, b, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	memory := uint64(f.About.MemoryMiB) << 20
	state, err := vmm.SavedState(f, memory)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vmm.SavedState(f, memory/2); !errors.Is(err, vmm.ErrSnapshot) {
		t.Errorf("half the memory: %v", err)
	}
	small := memfd(t, guestmem.PageSize, 0)
	for name, s := range map[string]Saved{
		"no state":    {Memory: f.File()},
		"half state":  {State: state[:len(state)/2], Memory: f.File()},
		"short file":  {State: state, Memory: small},
		"other state": {State: bytes.Repeat([]byte{7}, 100), Memory: f.File()},
	} {
		s.VCPUs, s.MemoryMiB = 1, int(f.About.MemoryMiB)
		saved, err := OpenSaved(s)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := Start(t.Context(), Config{ID: testID + "-x", Program: program(t), From: saved}); err == nil {
			t.Errorf("%s: a cell was started", name)
			_ = c.Close()
		}
		if err := saved.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTouchedRuns(t *testing.T) {
	const memory = 100 * guestmem.PageSize
	got, err := touchedRuns([]uint64{0, 2, 5, 7}, memory)
	if err != nil || len(got) != 2 || got[1] != (snapshot.Run{RAM: 5 * guestmem.PageSize, Size: 3 * guestmem.PageSize, Write: true}) {
		t.Errorf("%+v, %v", got, err)
	}
	for name, pages := range map[string][]uint64{
		"odd":       {1},
		"empty":     {1, 1},
		"backwards": {5, 2, 1, 2},
		"overlap":   {5, 8, 6, 2},
		"beyond":    {100, 2},
		"across":    {99, 4},
		"wraps":     {1, 1<<64 - 1},
	} {
		if got, err := touchedRuns(pages, memory); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// BenchmarkRestore starts cells from a file in the page cache, up to the first thing that the guest says: compare with
// BenchmarkFork.
func BenchmarkRestore(b *testing.B) {
	needKVM(b)
	parent, err := Start(b.Context(), Config{ID: testID, Program: program(b), Kernel: guestFile(b, chatter()), VCPUs: 1, MemoryMiB: 64})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = parent.Close() }()
	branch, err := parent.Branch(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	path := save(b, branch, nil)
	if err := errors.Join(branch.Close(), parent.Pause(b.Context())); err != nil {
		b.Fatal(err)
	}
	var opened time.Duration
	for b.Loop() {
		begin := time.Now()
		f, err := snapshot.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		state, err := vmm.SavedState(f, 64<<20)
		if err != nil {
			b.Fatal(err)
		}
		saved, err := OpenSaved(Saved{VCPUs: 1, MemoryMiB: 64, State: state, Memory: f.File()})
		if err != nil {
			b.Fatal(err)
		}
		opened += time.Since(begin)
		said := make(chan struct{}, 1)
		c, err := Start(b.Context(), Config{ID: testID + "-1", Program: program(b), From: saved, Console: signalWriter(said)})
		if err != nil {
			b.Fatal(err)
		}
		<-said
		b.StopTimer()
		if err := errors.Join(c.Close(), saved.Close(), f.Close()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(opened)/float64(time.Millisecond)/float64(b.N), "open-ms")
}
