package cell

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/microguest"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/vmm"
)

// chatter is a guest that says "up" once and "on" for ever.
func chatter() []byte {
	on := microguest.Say("on\n")
	on = append(on, 0xb9, 0, 1, 0, 0, 0xf3, 0x90, 0xff, 0xc9, 0x75, 0xfa) // mov ecx, 256; pause; dec ecx; jnz pause
	return bytes.Join([][]byte{microguest.Say("up\n"), on, {0xeb, byte(-len(on) - 2)}}, nil)
}

// A branch of a confined cell, and cells of it, and of one of them.
func TestBranch(t *testing.T) {
	parent := startGuest(t, nil, chatter())
	waitConsole(t, parent, "on")
	before := count(t, "/proc/self/fd")
	from := parent
	for depth, id := range []string{"-1", "-2", "-3"} {
		b, err := from.Branch(t.Context())
		if err != nil {
			t.Fatalf("depth %d: %v; end: %v", depth, err, from.End())
		}
		n, size, err := b.Layers()
		if err != nil || n < 1 || size < guestmem.PageSize {
			t.Errorf("depth %d: %d layers of %d bytes, %v", depth, n, size, err)
		}
		child := startFrom(t, b, id)
		for range 2 {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := Start(t.Context(), Config{ID: testID + "-x", Program: program(t), From: b}); !errors.Is(err, ErrConfig) {
			t.Errorf("a cell from a closed branch: %v", err)
		}
		waitConsole(t, child, "on")
		if slices.Contains(child.Console(), "up") {
			t.Error("the child has begun anew")
		}
		for _, l := range child.Confinement().Missing() {
			if !usesCgo() {
				t.Errorf("missing: %+v", l)
			}
		}
		from = child
	}
	if err := parent.Close(); err != nil {
		t.Error(err)
	}
	b, err := from.Branch(t.Context())
	if err != nil {
		t.Fatalf("after the first parent's end: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := parent.Branch(t.Context()); !errors.Is(err, ErrEnded) {
		t.Errorf("branch of a cell that was closed: %v", err)
	}
	if err := from.Close(); err != nil {
		t.Error(err)
	}
	if after := count(t, "/proc/self/fd"); after > before+8 { // of the cells in between
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func startFrom(t *testing.T, b *Branch, id string) *Cell {
	t.Helper()
	c, err := Start(t.Context(), Config{ID: testID + id, Program: program(t), From: b})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A paused guest is branched as well, and stays paused. A call that is given up leaves nothing.
func TestBranchPausedAndCancelled(t *testing.T) {
	c := startGuest(t, nil, chatter())
	waitConsole(t, c, "on")
	if err := c.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := c.Branch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	waitConsole(t, startFrom(t, b, "-1"), "on")
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	before := count(t, "/proc/self/fd")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Branch(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if b, err = c.Branch(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if after := count(t, "/proc/self/fd"); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// Branches at the same time are one after the other.
func TestBranchConcurrently(t *testing.T) {
	c := startGuest(t, nil, chatter())
	waitConsole(t, c, "on")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			b, err := c.Branch(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// memfd is a file in memory with those seals.
func memfd(t *testing.T, size int64, seals int) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "test")
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestHostileBranch: what is no branch is refused, and nothing of it stays open.
func TestHostileBranch(t *testing.T) {
	const all = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW
	const memory = 1 << 20
	state, layer := memfd(t, 100, all), memfd(t, 2*guestmem.PageSize, all)
	disk, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if err := disk.Truncate(guestmem.PageSize); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	many := []*os.File{state}
	for len(many) < vmm.MaxLayers+2 {
		many = append(many, layer)
	}
	for name, c := range map[string]struct {
		files []*os.File
		want  string // of the error; empty if it is a branch
	}{
		"a branch":         {[]*os.File{state, layer}, ""},
		"as many as can":   {many[:vmm.MaxLayers+1], ""},
		"too many":         {many, "more files"},
		"nothing":          {nil, "0 files"},
		"state only":       {[]*os.File{state}, "1 files"},
		"long state":       {[]*os.File{memfd(t, vmm.MaxStateSize+1, all), layer}, "file 0"},
		"empty state":      {[]*os.File{memfd(t, 0, all), layer}, "file 0"},
		"writable state":   {[]*os.File{memfd(t, 100, all&^unix.F_SEAL_WRITE), layer}, "not sealed"},
		"writable layer":   {[]*os.File{state, memfd(t, guestmem.PageSize, all&^unix.F_SEAL_WRITE)}, "not sealed"},
		"future writes":    {[]*os.File{state, memfd(t, guestmem.PageSize, all&^unix.F_SEAL_WRITE|unix.F_SEAL_FUTURE_WRITE)}, "not sealed"},
		"shrinking layer":  {[]*os.File{state, memfd(t, guestmem.PageSize, all&^unix.F_SEAL_SHRINK)}, "not sealed"},
		"growing layer":    {[]*os.File{state, layer, memfd(t, guestmem.PageSize, all&^unix.F_SEAL_GROW)}, "file 2"},
		"half a page":      {[]*os.File{state, memfd(t, guestmem.PageSize/2, all)}, "file 1"},
		"more than RAM":    {[]*os.File{state, memfd(t, memory+guestmem.PageSize, all)}, "file 1"},
		"file on disk":     {[]*os.File{state, disk}, "file 1"},
		"pipe":             {[]*os.File{state, r}, "file 1"},
		"state is no file": {[]*os.File{w, layer}, "file 0"},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs, err := packetPair()
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			var fds []int
			for _, f := range c.files {
				fds = append(fds, int(f.Fd()))
			}
			var rights []byte
			if fds != nil {
				rights = unix.UnixRights(fds...)
			}
			if err := unix.Sendmsg(int(theirs.Fd()), []byte{0}, rights, nil, 0); err != nil {
				t.Fatal(err)
			}
			if err := theirs.Close(); err != nil {
				t.Fatal(err)
			}
			before := count(t, "/proc/self/fd")
			files, err := receiveBranch(ours, memory, nil)
			if c.want == "" {
				if err != nil || len(files) != len(c.files) {
					t.Errorf("%d files, %v", len(files), err)
				}
				if err := closeAll(files); err != nil {
					t.Error(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, not %q", err, c.want)
			}
			if after := count(t, "/proc/self/fd"); after != before {
				t.Errorf("%d descriptors, %d before", after, before)
			}
		})
	}
}

// An owner that has no descriptors left says so, does not blame the cell, and knows that the guest may have a layer more: room
// is left for one, not for one each time, as a cell could refuse branches to get more and more.
func TestBranchWithoutDescriptors(t *testing.T) {
	on := append([]byte{0xfe, 0x04, 0x25, 0, 0, 0, 1}, microguest.Say("on\n")...) // inc byte [16 MiB]
	c := startGuest(t, nil, append(on, 0xeb, byte(-len(on)-2)))
	waitConsole(t, c, "on")
	for range 3 { // each makes a layer
		b, err := c.Branch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	before := count(t, "/proc/self/fd")
	refused := 0
	for n := 1; ; n++ {
		if n > 20 {
			t.Fatal("there is never room enough")
		}
		layered := c.layered()
		more := testenv.FewFiles(t, n)
		b, err := c.Branch(t.Context())
		more()
		if err == nil {
			if c.lost != 0 {
				t.Errorf("%d bytes are allowed for a layer that nobody knows, after a branch", c.lost)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			break
		}
		if !errors.Is(err, unix.EMFILE) || strings.Contains(err.Error(), "protocol") {
			t.Errorf("room for %d: %v", n, err)
		}
		if strings.Contains(err.Error(), "receive") {
			refused++
			if c.layered() != layered || c.lost != int64(c.cfg.MemoryMiB)<<20 {
				t.Errorf("room for %d: layers of %d bytes, and %d more, are allowed for; %d before", n, c.layered(), c.lost, layered)
			}
		}
	}
	if refused == 0 {
		t.Error("no branch was refused for want of descriptors for its files")
	}
	if after := count(t, "/proc/self/fd"); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// A cell that sends nothing is not waited for.
func TestSilentBranch(t *testing.T) {
	ours, theirs, err := packetPair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	start := time.Now()
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := receiveBranch(ours, 1<<20, nil); err == nil || time.Since(start) > transferPatience {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

// BenchmarkFork starts cells from a branch, up to the first thing that the guest says, and reports where the time
// goes: the start, and the guest's way to its first word.
func BenchmarkFork(b *testing.B) {
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
	defer branch.Close()
	if err := parent.Pause(b.Context()); err != nil {
		b.Fatal(err)
	}
	var started time.Duration
	for b.Loop() {
		begin := time.Now()
		said := make(chan struct{}, 1)
		c, err := Start(b.Context(), Config{ID: testID + "-1", Program: program(b), From: branch, Console: signalWriter(said)})
		if err != nil {
			b.Fatal(err)
		}
		started += time.Since(begin)
		<-said
		b.StopTimer()
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(started)/float64(time.Millisecond)/float64(b.N), "start-ms")
}

// signalWriter tells that something was written.
type signalWriter chan struct{}

func (w signalWriter) Write(p []byte) (int, error) {
	select {
	case w <- struct{}{}:
	default:
	}
	return len(p), nil
}
