package vmm_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/memfile"
	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/vmm"
)

// guestMiB is the RAM of guests by bootGuest.
const guestMiB = 256

// save writes a snapshot to a file.
func save(ctx context.Context, t testing.TB, s *vmm.Snapshot, prefetch []snapshot.Run) string {
	t.Helper()
	state, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := s.Layers()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "machine")
	w, err := snapshot.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if state, err = vmm.SaveMemory(ctx, w, state, layers, guestMiB<<20); err != nil {
		t.Fatal(errors.Join(err, w.Abort()))
	}
	if _, err := w.Finish(snapshot.About{VCPUs: 1, MemoryMiB: guestMiB}, state, prefetch); err != nil {
		t.Fatal(err)
	}
	return path
}

// openSaved opens what save has written.
func openSaved(t testing.TB, path string) *vmm.Snapshot {
	t.Helper()
	f, err := snapshot.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	state, err := vmm.SavedState(f, guestMiB<<20)
	if err != nil {
		t.Fatal(err)
	}
	s, err := vmm.OpenSnapshot(state, duplicates(t, []*os.File{f.File()}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A guest is saved and goes on from the file, as do copies of it, with what copies use first mapped ahead and without.
func TestRestore(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*bootTimeout)
	defer cancel()
	_, disk := guestFiles(t)
	parent, client := bootGuest(t, nil)
	if _, err := run(ctx, client, nil, "sh", "-c", "echo before >/tmp/word"); err != nil {
		t.Fatal(err)
	}
	snap := branch(ctx, t, parent, client)
	start := time.Now()
	path := save(ctx, t, snap, nil)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes written in %v", info.Size(), time.Since(start))
	if err := errors.Join(snap.Close(), parent.Close()); err != nil {
		t.Fatal(err)
	}
	saved := openSaved(t, path)
	defer saved.Close()
	first, c := forkGuest(ctx, t, saved, vmm.ForkConfig{Disks: []*os.File{disk}}, "first")
	runs, err := first.Touched()
	if err != nil || len(runs) == 0 {
		t.Fatalf("%d runs, %v", len(runs), err)
	}
	if got, err := run(ctx, c, nil, "cat", "/tmp/word"); err != nil || got != "before\n" {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := run(ctx, c, nil, "sh", "-c", "echo first >/tmp/word"); err != nil {
		t.Fatal(err)
	}
	var size uint64
	for _, r := range runs {
		size += r.Size
	}
	t.Logf("a copy that has become another one has used %d KiB in %d runs", size>>10, len(runs))
	second := branch(ctx, t, first, c)
	if err := os.Remove(path); err != nil { // what has it open has it still
		t.Fatal(err)
	}
	again := openSaved(t, save(ctx, t, second, runs))
	defer again.Close()
	_, c = forkGuest(ctx, t, again, vmm.ForkConfig{Disks: []*os.File{disk}}, "second")
	if got, err := run(ctx, c, nil, "cat", "/tmp/word"); err != nil || got != "first\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// BenchmarkRestore is the way to a copy's first program, from memory and from a file in the page cache, each without and with
// what copies use mapped ahead.
func BenchmarkRestore(b *testing.B) {
	_, disk := guestFiles(b)
	parent, client := bootGuest(b, nil)
	ctx := b.Context()
	if _, err := run(ctx, client, nil, "true"); err != nil {
		b.Fatal(err)
	}
	plain := branch(ctx, b, parent, client)
	parent.Pause() // it would take time of the processor that the copies are on
	first, c := forkGuest(ctx, b, plain, vmm.ForkConfig{Disks: []*os.File{disk}}, "rehearsal")
	if _, err := run(ctx, c, nil, "true"); err != nil {
		b.Fatal(err)
	}
	runs, err := first.Touched()
	if err != nil {
		b.Fatal(err)
	}
	if err := first.Close(); err != nil {
		b.Fatal(err)
	}
	plainFile, fullFile := save(ctx, b, plain, nil), save(ctx, b, plain, runs)
	ahead := withPrefetch(ctx, b, fullFile)
	defer ahead.Close()
	open := func(path string) func() *vmm.Snapshot { return func() *vmm.Snapshot { return openSaved(b, path) } }
	keep := func(s *vmm.Snapshot) func() *vmm.Snapshot { return func() *vmm.Snapshot { return s } }
	for _, c := range []struct {
		name string
		from func() *vmm.Snapshot
		own  bool
	}{
		{"memory", keep(plain), false}, {"file", open(plainFile), true},
		{"memory-ahead", keep(ahead), false}, {"file-ahead", open(fullFile), true},
	} {
		b.Run(c.name, func(b *testing.B) { benchmarkCopy(b, disk, c.from, c.own) })
	}
}

// withPrefetch is the snapshot of a file with its memory in memory.
func withPrefetch(ctx context.Context, b *testing.B, path string) *vmm.Snapshot {
	b.Helper()
	f, err := snapshot.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	state, err := vmm.SavedState(f, guestMiB<<20)
	if err != nil {
		b.Fatal(err)
	}
	s, err := vmm.OpenSnapshot(state, []*os.File{sealedCopy(b, f.File())})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// benchmarkCopy makes copies and reports where the time goes. Snapshots that are the loop's own are closed by it.
func benchmarkCopy(b *testing.B, disk *os.File, from func() *vmm.Snapshot, own bool) {
	ctx := b.Context()
	var parts [4]time.Duration
	var faults [4]int64
	for b.Loop() {
		start, faulted := time.Now(), minorFaults(b)
		lap := func(i int) {
			now := time.Now()
			parts[i] += now.Sub(start)
			n := minorFaults(b)
			faults[i] += n - faulted
			start, faulted = time.Now(), n
		}
		s := from()
		vm, err := vmm.Fork(s, vmm.ForkConfig{Disks: []*os.File{disk}})
		if err != nil {
			b.Fatal(err)
		}
		lap(0)
		if err := vm.Start(); err != nil {
			b.Fatal(err)
		}
		c := clientOf(vm)
		if err := c.Ping(ctx); err != nil {
			b.Fatal(err)
		}
		lap(1)
		if err := c.Thaw(ctx, agentproto.Config{Hostname: "copy", Now: time.Now(), Entropy: make([]byte, 32)}); err != nil {
			b.Fatal(err)
		}
		lap(2)
		if _, err := run(ctx, c, nil, "true"); err != nil {
			b.Fatal(err)
		}
		lap(3)
		b.StopTimer()
		err = vm.Close()
		if own {
			err = errors.Join(err, s.Close())
		}
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	for i, name := range []string{"make", "ping", "thaw", "exec"} {
		b.ReportMetric(float64(parts[i])/float64(time.Millisecond)/float64(b.N), name+"-ms")
		b.ReportMetric(float64(faults[i])/float64(b.N), name+"-faults")
	}
}

// sealedCopy is a file's content in memory.
func sealedCopy(b *testing.B, f *os.File) *os.File {
	b.Helper()
	s, err := memfile.Sealed("copy", func(to *os.File) error {
		_, err := io.Copy(to, io.NewSectionReader(f, 0, 1<<40))
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return s
}
