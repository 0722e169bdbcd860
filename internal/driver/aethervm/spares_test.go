package aethervm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/internal/host"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/internal/testenv"
)

// spareFixture is a pool of spare cells under a lease.
type spareFixture struct {
	*testing.T
	spares
	owned *lease.Lease
}

func newSpares(t *testing.T) *spareFixture {
	t.Helper()
	testenv.Cell(t)
	system, err := kvm.Open()
	if err != nil {
		testenv.Require(t, "KVM", err.Error())
	}
	_ = system.Close()
	f := &spareFixture{T: t}
	if f.owned, err = lease.Acquire(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.close(); err != nil {
			t.Error(err)
		}
		f.nothingLeft()
		if err := f.owned.Release(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// nothingLeft looks for control groups.
func (f *spareFixture) nothingLeft() {
	f.Helper()
	groups, err := host.Cgroups()
	if err != nil {
		f.Fatal(err)
	}
	for _, root := range groups.Hierarchies {
		if left, _ := filepath.Glob(filepath.Join(root, cellsOf(f.owned.ID)+"*")); len(left) > 0 {
			f.Errorf("left: %v", left)
		}
	}
}

// full waits until there are as many spares as there will be, and returns how many.
func (f *spareFixture) full() int {
	f.Helper()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		making, ready := f.making, len(f.ready)
		f.mu.Unlock()
		if making == 0 {
			return ready
		}
		if time.Since(begin) > time.Minute {
			f.Fatal("no spares")
		}
	}
}

func (f *spareFixture) mustTake(of size) *cell.Spare {
	f.Helper()
	c := f.take(of)
	if c == nil {
		f.Fatal("no spare")
	}
	f.Cleanup(func() { _ = c.Close() })
	return c
}

func TestSpares(t *testing.T) {
	f := newSpares(t)
	small, large := size{1, 128}, size{2, 256}
	if f.take(small) != nil {
		t.Error("a spare from nowhere")
	}
	f.fill(f.owned, small)
	if n := f.full(); n != 0 {
		t.Errorf("%d spares after the first copy", n)
	}
	for range 3 {
		f.fill(f.owned, small)
	}
	if n := f.full(); n != maxSpares {
		t.Errorf("%d spares", n)
	}
	if f.take(large) != nil {
		t.Error("a spare of another size")
	}
	// Nobody has asked for them: who sweeps finds no sandbox.
	if entries, err := os.ReadDir(f.owned.Dir); err != nil {
		t.Error(err)
	} else {
		for _, e := range entries {
			if e.IsDir() {
				t.Errorf("a mark: %s", e.Name())
			}
		}
	}
	c := f.mustTake(small)
	if !strings.HasPrefix(c.ID(), cellsOf(f.owned.ID)) {
		t.Errorf("it is called %s, which nobody would sweep", c.ID())
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	// One of what is left is killed.
	f.fill(f.owned, small)
	f.full()
	f.mu.Lock()
	victim := f.ready[len(f.ready)-1]
	f.mu.Unlock()
	if err := unix.Kill(victim.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-victim.Done()
	if c := f.mustTake(small); c == victim {
		t.Error("a dead spare")
	}
	// Another size replaces what there is.
	f.fill(f.owned, small)
	f.fill(f.owned, large)
	if n := f.full(); n != maxSpares {
		t.Errorf("%d spares of the other size", n)
	}
	if f.take(small) != nil {
		t.Error("a spare of the size before")
	}
	f.mustTake(large)
	f.expire()
	if f.take(large) != nil {
		t.Error("a spare that nobody has asked for lives on")
	}
}

// Spares that are still in the making are waited for, and there are none after close.
func TestSparesClose(t *testing.T) {
	f := newSpares(t)
	for range spareDemand {
		f.fill(f.owned, size{1, 128})
	}
	if err := f.close(); err != nil {
		t.Error(err)
	}
	f.nothingLeft()
	f.fill(f.owned, size{1, 128})
	if f.full() != 0 || f.take(size{1, 128}) != nil {
		t.Error("a spare after close")
	}
}
