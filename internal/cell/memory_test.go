package cell

import (
	"bytes"
	"errors"
	"testing"

	"github.com/aethervm/aether/internal/guestmem"
)

// memoryOf is a guest's memory of some pages, each of a layer (0: zeros) or the guest's own.
func memoryOf(layers []fileID, pages ...int) *Memory {
	m := &Memory{pages: uint64(len(pages)), layers: layers, source: make([]uint16, len(pages)), own: make([]byte, (len(pages)+7)/8)}
	for p, source := range pages {
		if source < 0 {
			m.own[p/8] |= 1 << (p % 8)
			continue
		}
		m.source[p] = uint16(source)
	}
	return m
}

func TestMemoryDiff(t *testing.T) {
	const own = -1
	first, second, third := fileID{1, 1}, fileID{1, 2}, fileID{2, 1}
	for name, c := range map[string]struct {
		a, b         *Memory
		ownA, ownB   int64 // pages
		differs      int64
		notRelatives bool
	}{
		"the same":           {a: memoryOf([]fileID{first}, 0, 1, 1), b: memoryOf([]fileID{first}, 0, 1, 1)},
		"one has written":    {a: memoryOf([]fileID{first}, 0, own, 1), b: memoryOf([]fileID{first}, 0, 1, 1), ownA: 1, differs: 1},
		"both have written":  {a: memoryOf([]fileID{first}, own, own, 1), b: memoryOf([]fileID{first}, 0, own, own), ownA: 2, ownB: 2, differs: 3},
		"one branched since": {a: memoryOf([]fileID{first, second}, 0, 2, 1), b: memoryOf([]fileID{first}, 0, 1, own), ownA: 1, ownB: 1, differs: 2},
		"in another order": {a: memoryOf([]fileID{second, first}, 1, 2, 2), b: memoryOf([]fileID{first, third, second}, 3, 1, 2),
			ownB: 1, differs: 1},
		"one is older there": {a: memoryOf([]fileID{first, second}, 1, 1), b: memoryOf([]fileID{first, second}, 2, 1), differs: 1},
		"no layer in common": {a: memoryOf([]fileID{first}, 1), b: memoryOf([]fileID{second}, 1), notRelatives: true},
		"no layers":          {a: memoryOf(nil, own), b: memoryOf(nil, own), notRelatives: true},
		"another size":       {a: memoryOf([]fileID{first}, 1), b: memoryOf([]fileID{first}, 1, 1), notRelatives: true},
	} {
		want := MemoryDiff{Total: int64(c.a.pages) * guestmem.PageSize, OwnA: c.ownA * guestmem.PageSize, OwnB: c.ownB * guestmem.PageSize,
			Differs: c.differs * guestmem.PageSize}
		if c.notRelatives {
			want = MemoryDiff{}
		}
		if got, ok := c.a.Diff(c.b); got != want || ok == c.notRelatives {
			t.Errorf("%s: %+v, %v; want %+v", name, got, ok, want)
		}
		want.OwnA, want.OwnB = want.OwnB, want.OwnA
		if got, ok := c.b.Diff(c.a); !c.notRelatives && (got != want || !ok) {
			t.Errorf("%s, the other way round: %+v, %v; want %+v", name, got, ok, want)
		}
	}
}

func TestMemoryRefuses(t *testing.T) {
	ids := []uint64{1, 1, 1, 2}
	for name, said := range map[string]*memoryMessage{
		"nothing":       nil,
		"half a layer":  {IDs: ids[:3]},
		"half a place":  {IDs: ids, Places: []uint64{0, 1}},
		"no pages":      {IDs: ids, Places: []uint64{0, 0, 0}},
		"out of RAM":    {IDs: ids, Places: []uint64{15, 2, 0}},
		"far out":       {IDs: ids, Places: []uint64{1 << 63, 1 << 63, 0}},
		"no such layer": {IDs: ids, Places: []uint64{0, 1, 2}},
		"twice":         {IDs: ids, Places: []uint64{0, 2, 0, 1, 1, 1}},
		"too many":      {IDs: make([]uint64, 1000)},
	} {
		if m, err := newMemory(said, 16); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if m, err := newMemory(&memoryMessage{IDs: ids, Places: []uint64{0, 2, 1, 4, 12, 0}}, 16); err != nil || m.source[0] != 2 || m.source[2] != 0 || m.source[15] != 1 {
		t.Errorf("%+v, %v", m, err)
	}
}

// Whatever a cell says of its memory, the owner has memory that can be compared, or an error.
func FuzzMemory(f *testing.F) {
	f.Add([]byte(`{"kind":"reply","memory":{"ids":[1,2],"places":[0,3,0]}}`))
	f.Add([]byte(`{"kind":"reply","memory":{"ids":[1,2,3,4],"places":[0,3,0,9,7,1],"own":"AAE="}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		said, err := decode(b)
		if err != nil {
			return
		}
		m, err := newMemory(said.Memory, 16)
		if err != nil {
			return
		}
		m.own = append(bytes.Clone(said.Memory.Own), 0, 0)
		d, ok := m.Diff(m)
		if ok != (len(m.layers) > 0) || d.OwnA != d.OwnB || d.Differs > d.Total {
			t.Errorf("%+v, %v of %+v", d, ok, m)
		}
	})
}

// What a guest has written since it parted from another one is in no layer of both, and shows, without being read.
func TestMemoryOfCells(t *testing.T) {
	parent := startGuest(t, nil, chatter())
	waitConsole(t, parent, "on")
	alone, err := parent.Memory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := parent.Branch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	one, two := startFrom(t, b, "-1"), startFrom(t, b, "-2")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	waitConsole(t, one, "on")
	waitConsole(t, two, "on")
	memory := func(c *Cell) *Memory {
		t.Helper()
		m, err := c.Memory(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if d, ok := memory(one).Diff(alone); ok {
		t.Errorf("a guest that was not branched is a relative: %+v", d)
	}
	for name, pair := range map[string][2]*Cell{"siblings": {one, two}, "parent and child": {parent, one}} {
		d, ok := memory(pair[0]).Diff(memory(pair[1]))
		if !ok || d.Total != int64(pair[0].cfg.MemoryMiB)<<20 || d.Differs > d.OwnA+d.OwnB || d.Differs > d.Total/2 {
			t.Errorf("%s: %+v, %v", name, d, ok)
		}
		t.Logf("%s: %+v", name, d)
	}
	// A branch of one of them makes no difference, but for what that one has written: it is a layer now.
	before, _ := memory(one).Diff(memory(two))
	again, err := one.Branch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	after, ok := memory(one).Diff(memory(two))
	if !ok || after.OwnA < before.OwnA || after.OwnA > before.OwnA+1<<20 {
		t.Errorf("%+v before a branch, %+v after it, %v", before, after, ok)
	}
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := one.Memory(t.Context()); !errors.Is(err, ErrEnded) {
		t.Errorf("a closed cell: %v", err)
	}
}
