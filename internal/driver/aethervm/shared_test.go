package aethervm

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/sandbox"
)

func TestCellsFor(t *testing.T) {
	for _, c := range []struct {
		per, n int
		want   []int // places of each process
	}{{1, 5, nil}, {4, 1, nil}, {4, 2, []int{2}}, {4, 4, []int{4}}, {4, 9, []int{4, 4, 1}}, {64, 3, []int{3}}} {
		o := original{driver: &Driver{perCell: c.per}, branch: &cell.Branch{}}
		cells := o.cellsFor(c.n)
		var places []int
		taken := map[*sharedCell]int{}
		for i := range c.n {
			taken[cells.of(i)]++
		}
		if cells != nil {
			for _, s := range cells.cells {
				places = append(places, s.places)
				if taken[s] != s.places {
					t.Errorf("%+v: %d copies in a process for %d", c, taken[s], s.places)
				}
			}
		}
		if !slices.Equal(places, c.want) {
			t.Errorf("%+v: processes for %v", c, places)
		}
		if err := cells.close(); err != nil {
			t.Error(err)
		}
	}
	for _, n := range []int{-1, MaxCopiesPerCell + 1} {
		if _, err := New(Options{CopiesPerCell: n}); err == nil {
			t.Errorf("%d copies in a process", n)
		}
	}
}

// Copies that share a process are somebody else each, can be copied, and go one by one; the process's end is that of those that it
// has, and of no others.
func TestForkShared(t *testing.T) {
	d := open(t)
	d.perCell = 2
	parent := create(t, d)
	sh(t, parent, "echo inherited >/tmp/kept")
	list, err := parent.Fork(bounded(t), 3)
	if err != nil {
		t.Fatal(err)
	}
	pids, seen := map[int][]*Sandbox{}, map[string]bool{}
	for _, s := range list {
		b := s.(*Sandbox)
		pid := b.machine.cell.PID()
		pids[pid] = append(pids[pid], b)
		who := sh(t, b, "cat /tmp/kept /etc/machine-id /proc/sys/kernel/random/boot_id; hostname; od -An -N16 -tx1 /dev/urandom")
		for line := range strings.Lines(who) {
			if line = strings.TrimSpace(line); line != "inherited" && seen[line] {
				t.Errorf("%q occurs twice", line)
			}
			seen[line] = true
		}
		processes, err := b.HostProcesses(t.Context())
		if err != nil || len(processes) != 1 || processes[0].PID != pid {
			t.Errorf("its processes: %+v, %v", processes, err)
		}
	}
	var pair []*Sandbox
	for _, in := range pids {
		if len(in) == 2 {
			pair = in
		}
	}
	if len(pids) != 2 || pair == nil {
		t.Fatalf("3 copies in processes %v", pids)
	}
	grand, err := pair[0].Fork(bounded(t), 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := pair[0].Close(); err != nil {
		t.Error(err)
	}
	if got := sh(t, pair[1], "cat /tmp/kept"); got != "inherited" {
		t.Errorf("after its neighbour's end: %q", got)
	}
	if err := unix.Kill(pair[1].machine.cell.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-pair[1].machine.Exited()
	if _, err := pair[1].Exec(bounded(t), sandbox.Cmd{Args: []string{"true"}}); err == nil {
		t.Error("it runs a program without a process")
	}
	for _, s := range append(grand, parent) {
		if got := sh(t, s, "cat /tmp/kept"); got != "inherited" {
			t.Errorf("a copy in another process: %q", got)
		}
	}
	if err := closeSandboxes(append(grand, list...)); err != nil {
		t.Error(err)
	}
}
