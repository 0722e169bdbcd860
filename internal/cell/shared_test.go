package cell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/microguest"
	"github.com/aethervm/aether/vmm"
)

func shareProcess(t *testing.T, places int) *Shared {
	t.Helper()
	needKVM(t)
	s, err := Share(t.Context(), SharedConfig{
		SpareConfig: SpareConfig{ID: testID + "-shared", Program: program(t), VCPUs: 1, MemoryMiB: 64}, Places: places,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// branchOfChatter is a guest that says "on" for ever, and a branch of it.
func branchOfChatter(t *testing.T) (*Cell, *Branch) {
	t.Helper()
	parent := startGuest(t, nil, chatter())
	waitConsole(t, parent, "on")
	b, err := parent.Branch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, b) })
	return parent, b
}

// startShared starts a cell in a process that is shared.
func startShared(t *testing.T, s *Shared, id string, cfg Config) *Cell {
	t.Helper()
	cfg.ID = testID + "-" + id
	if cfg.From == nil {
		cfg.VCPUs, cfg.MemoryMiB = 1, 64
	}
	c, err := s.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// saysMore waits until a guest has said more than it had.
func saysMore(t *testing.T, c *Cell, said *safeBuffer) {
	t.Helper()
	for before, begin := said.size(), time.Now(); said.size() == before; time.Sleep(time.Millisecond) {
		if c.End() != nil || time.Since(begin) > 20*time.Second {
			t.Fatalf("%s stands still; its end: %v", c.ID(), c.End())
		}
	}
}

// Cells that share a process are as others are, and end one by one.
func TestShared(t *testing.T) {
	parent, b := branchOfChatter(t)
	const n = 3
	s := shareProcess(t, n)
	cells, said := make([]*Cell, n), make([]safeBuffer, n)
	var starts sync.WaitGroup
	for i := range n {
		starts.Go(func() {
			var err error
			if cells[i], err = s.Start(t.Context(), Config{ID: fmt.Sprint(testID, "-", i), From: b, Console: &said[i]}); err != nil {
				t.Error(err)
			}
		})
	}
	if starts.Wait(); t.Failed() {
		t.FailNow()
	}
	if _, err := s.Start(t.Context(), Config{ID: testID + "-more", From: b}); !errors.Is(err, ErrFull) {
		t.Errorf("one more: %v", err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil { // from now on, it ends with the last one
		t.Error(err)
	}
	for i, c := range cells {
		if c.PID() != s.PID() || c.ID() != fmt.Sprint(testID, "-", i) {
			t.Errorf("cell %s in process %d, not %d", c.ID(), c.PID(), s.PID())
		}
		if missing := c.Confinement().Missing(); len(missing) > 0 && !usesCgo() && os.Geteuid() == 0 {
			t.Errorf("not confined by %v", missing)
		}
		saysMore(t, c, &said[i])
		if err := errors.Join(c.Pause(t.Context()), c.Resume(t.Context())); err != nil {
			t.Error(err)
		}
		saysMore(t, c, &said[i])
		if strings.Contains(said[i].text(), "up") {
			t.Error("it has begun anew")
		}
	}
	for i, c := range cells {
		for range 2 {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		var e *EndError
		if !errors.As(c.End(), &e) || e.Reason != ReasonClosed {
			t.Errorf("it has ended with %v", c.End())
		}
		if _, err := c.Branch(t.Context()); !errors.Is(err, ErrEnded) {
			t.Errorf("a branch of a closed cell: %v", err)
		}
		for j := i + 1; j < n; j++ {
			saysMore(t, cells[j], &said[j])
		}
	}
	if err := errors.Join(parent.Close(), b.Close()); err != nil {
		t.Error(err)
	}
	noLeftovers(t)
}

// A guest that ends, or cannot begin, does not end the others of its process; the process's end is that of all.
func TestSharedEnds(t *testing.T) {
	s := shareProcess(t, 6)
	var said safeBuffer
	first := startShared(t, s, "first", Config{Kernel: guestFile(t, chatter()), Console: &said})
	off := startShared(t, s, "off", Config{Kernel: guestFile(t, microguest.Say("bye\n"), microguest.PowerOff())})
	if e := waitEnd(t, off); e.Reason != string(vmm.PoweredOff) || len(e.Console) != 1 || e.Console[0] != "bye" {
		t.Errorf("it has ended with %+v", e)
	}
	if err := off.Close(); err != nil {
		t.Error(err)
	}
	notKernel, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer notKernel.Close()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	good := guestFile(t, chatter())
	for name, refused := range map[string]struct {
		ctx context.Context
		cfg Config
	}{
		"another size": {t.Context(), Config{Kernel: good, VCPUs: 1, MemoryMiB: 128}},
		"no kernel":    {t.Context(), Config{VCPUs: 1, MemoryMiB: 64}},
		"bad kernel":   {t.Context(), Config{Kernel: notKernel, VCPUs: 1, MemoryMiB: 64}},
		"cancelled":    {ended, Config{Kernel: good, VCPUs: 1, MemoryMiB: 64}},
	} {
		refused.cfg.ID = testID + "-refused"
		if c, err := s.Start(refused.ctx, refused.cfg); err == nil {
			_ = c.Close()
			if name != "cancelled" { // it may have been ready
				t.Errorf("%s: a cell", name)
			}
		}
	}
	saysMore(t, first, &said)
	second := startShared(t, s, "second", Config{Kernel: good})
	waitConsole(t, second, "on")
	if err := unix.Kill(s.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Cell{first, second} {
		if e := waitEnd(t, c); e.Reason != ReasonProcess || !strings.Contains(e.Detail, "killed") {
			t.Errorf("it has ended with %+v", e)
		}
	}
	if _, err := s.Start(t.Context(), Config{ID: testID + "-late", Kernel: good, VCPUs: 1, MemoryMiB: 64}); !errors.Is(err, ErrEnded) {
		t.Errorf("in a process that has ended: %v", err)
	}
	if err := errors.Join(first.Close(), second.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	noLeftovers(t)
}

// All places of the largest process, at once.
func TestSharedFull(t *testing.T) {
	parent, b := branchOfChatter(t)
	s := shareProcess(t, MaxPlaces)
	cells := make([]*Cell, MaxPlaces)
	var starts sync.WaitGroup
	for i := range cells {
		starts.Go(func() {
			var said safeBuffer
			var err error
			if cells[i], err = s.Start(t.Context(), Config{ID: fmt.Sprint(testID, "-", i), From: b, Console: &said}); err != nil {
				t.Error(err)
				return
			}
			for begin := time.Now(); said.size() == 0; time.Sleep(time.Millisecond) {
				if cells[i].End() != nil || time.Since(begin) > time.Minute {
					t.Errorf("cell %d says nothing; its end: %v", i, cells[i].End())
					return
				}
			}
			if err := cells[i].Pause(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	starts.Wait()
	if t.Failed() {
		t.Log(cells[0].End())
	}
	for _, c := range cells {
		if c != nil {
			starts.Go(func() {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	starts.Wait()
	if err := errors.Join(s.Close(), parent.Close(), b.Close()); err != nil {
		t.Error(err)
	}
	noLeftovers(t)
}

// What a cell had in a process that goes on is freed: files, mappings, threads, memory.
func TestSharedCycles(t *testing.T) {
	_, b := branchOfChatter(t)
	s := shareProcess(t, MaxPlaces)
	stays := startShared(t, s, "stays", Config{From: b})
	cycle := func() {
		var said safeBuffer
		c, err := s.Start(t.Context(), Config{ID: testID + "-cycle", From: b, Console: &said})
		if err != nil {
			t.Fatal(err)
		}
		saysMore(t, c, &said)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	type holdings struct{ files, mappings, threads, rss int }
	proc := fmt.Sprintf("/proc/%d/", s.PID())
	holds := func() holdings {
		maps, err := os.ReadFile(proc + "maps")
		if err != nil {
			t.Fatal(err)
		}
		return holdings{count(t, proc+"fd"), strings.Count(string(maps), "\n"), count(t, proc+"task"), kib(t, proc+"smaps_rollup", "Rss")}
	}
	for range 8 {
		cycle()
	}
	before, own := holds(), count(t, "/proc/self/fd")
	for range MaxPlaces - 10 {
		cycle()
	}
	after := holds()
	t.Logf("before %+v, after %+v", before, after)
	const fewThreads, fewMappings, growthKiB = 4, 40, 8 << 10
	if after.files > before.files || after.threads > before.threads+fewThreads || after.mappings > before.mappings+fewMappings ||
		after.rss > before.rss+growthKiB || count(t, "/proc/self/fd") > own {
		t.Errorf("before %+v and %d of the owner, after %+v and %d", before, own, after, count(t, "/proc/self/fd"))
	}
	waitConsole(t, stays, "on")
}

// A cell that shares its process can be branched, into processes of any kind, and its layers stay charged where they are when it
// has ended, for as long as somebody has them.
func TestSharedBranch(t *testing.T) {
	const memoryMiB = 64
	s := shareProcess(t, 4)
	limit := func() int64 { return memoryLimit(t, s.process) }
	empty := limit()
	var said, otherSaid safeBuffer
	writer := startShared(t, s, "writer", Config{Kernel: guestFile(t, filler(memoryMiB)), Console: &said})
	other := startShared(t, s, "other", Config{Kernel: guestFile(t, chatter()), Console: &otherSaid})
	if got, want := limit()-empty, 2*share(memoryMiB); got != want {
		t.Errorf("two cells may have %d bytes, not %d", got, want)
	}
	waitFull(t, writer, &said, 1)
	b, err := writer.Branch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, layers, err := b.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := limit()-empty, 2*share(memoryMiB)+layers; got != want {
		t.Errorf("with a branch of %d bytes they may have %d, not %d", layers, got, want)
	}
	waitFull(t, writer, &said, 2)
	var here, there safeBuffer
	inside := startShared(t, s, "inside", Config{From: b, Console: &here})
	outside, err := Start(t.Context(), Config{ID: testID + "-outside", Program: program(t), From: b, Console: &there})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = outside.Close() })
	waitFull(t, inside, &here, 2)
	waitFull(t, outside, &there, 2)
	if err := errors.Join(b.Close(), writer.Close(), inside.Close()); err != nil {
		t.Error(err)
	}
	last := startShared(t, s, "last", Config{Kernel: guestFile(t, chatter())}) // sets the limit
	if got, want := limit()-empty, 2*share(memoryMiB)+layers; got != want {
		t.Errorf("while a copy has the layers, two cells may have %d, not %d", got, want)
	}
	waitFull(t, outside, &there, 1)
	if err := errors.Join(outside.Close(), last.Close()); err != nil {
		t.Error(err)
	}
	if b, err = other.Branch(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, layers, err = b.Layers()
	if err := errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	if got, want := limit()-empty, share(memoryMiB)+layers; got != want {
		t.Errorf("at the end one cell may have %d, not %d", got, want)
	}
	saysMore(t, other, &otherSaid)
}

// memoryLimit is what a process may have, in bytes.
func memoryLimit(t *testing.T, p *process) int64 {
	t.Helper()
	return memoryFigure(t, &Cell{process: p}, "memory.limit_in_bytes", memoryMax)
}

// A process that has no descriptors left for a cell says so, and goes on with those that it has.
func TestSharedFewDescriptors(t *testing.T) {
	s := shareProcess(t, MaxPlaces)
	var said safeBuffer
	first := startShared(t, s, "first", Config{Kernel: guestFile(t, chatter()), Console: &said})
	has, good := count(t, fmt.Sprintf("/proc/%d/fd", s.PID())), guestFile(t, chatter())
	var limit unix.Rlimit
	if err := unix.Prlimit(s.PID(), unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		t.Fatal(err)
	}
	made := false
	for more := range 24 {
		if err := unix.Prlimit(s.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(has + more), Max: limit.Max}, nil); err != nil {
			t.Fatal(err)
		}
		c, err := s.Start(t.Context(), Config{ID: testID + "-few", Kernel: good, VCPUs: 1, MemoryMiB: 64})
		if made = err == nil; made {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			break
		}
		if !errors.Is(err, unix.EMFILE) {
			t.Errorf("with %d descriptors: %v", has+more, err)
		}
		saysMore(t, first, &said)
	}
	if !made {
		t.Error("no number of descriptors was enough")
	}
}

// What a cell of a process could have is taken back when it has ended.
func TestSharedLimitAfterClose(t *testing.T) {
	s := shareProcess(t, 3)
	empty := memoryLimit(t, s.process)
	kernel := guestFile(t, chatter())
	var cells []*Cell
	for i := range 3 {
		cells = append(cells, startShared(t, s, fmt.Sprint(i), Config{Kernel: kernel}))
	}
	if err := errors.Join(s.Close(), cells[1].Close(), cells[2].Close()); err != nil {
		t.Error(err)
	}
	if got, want := memoryLimit(t, s.process)-empty, share(64); got != want {
		t.Errorf("one cell of three is left, and may have %d bytes, not %d", got, want)
	}
}

// A process that is ended for what it says of one guest says so of all.
func TestSharedBroken(t *testing.T) {
	s := shareProcess(t, 2)
	kernel := guestFile(t, chatter())
	breaks, other := startShared(t, s, "breaks", Config{Kernel: kernel}), startShared(t, s, "other", Config{Kernel: kernel})
	if err := breaks.link.send(message{Kind: kindSent, ID: 77}); err != nil { // the owner does not wait for the reply
		t.Fatal(err)
	}
	for _, c := range []*Cell{breaks, other} {
		if e := waitEnd(t, c); e.Reason != ReasonProcess || !strings.Contains(e.Detail, "reply to request 77") {
			t.Errorf("%s has ended with %v", c.ID(), e)
		}
	}
}

// A process whose places are taken cannot make more virtual machines than it has.
func TestSharedDevice(t *testing.T) {
	s := shareProcess(t, 2)
	open := func() (n int) {
		dir := fmt.Sprintf("/proc/%d/fd/", s.PID())
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if name, err := os.Readlink(dir + f.Name()); err == nil && name == kvm.Device {
				n++
			}
		}
		return n
	}
	kernel := guestFile(t, chatter())
	startShared(t, s, "first", Config{Kernel: kernel})
	if n := open(); n != 1 {
		t.Errorf("with a place left, it has the device %d times", n)
	}
	startShared(t, s, "second", Config{Kernel: kernel})
	if n := open(); n != 0 {
		t.Errorf("without, it has the device %d times", n)
	}
}
