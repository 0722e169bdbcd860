package cell

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/microguest"
)

// generationsGuest writes again and again all of its RAM beyond 24 MiB but for something that is one more each time: the first
// pages, or with gaps ten pages of each MiB.
func generationsGuest(memoryMiB int, gaps bool) []byte {
	page, step, start := touch(memoryMiB, 1), uint32(20*4096), []byte{0x89, 0xfe} // mov esi, edi
	if gaps {
		write := []byte{0xff, 0x06}
		page = slices.Concat(
			[]byte{0x89, 0xf0},        // mov eax, esi
			operand(1<<20-1, 0x25),    // and eax, 1 MiB - 1
			operand(10*4096, 0x3d),    // cmp eax, 10 pages
			[]byte{0x73, 0x04},        // jae write
			[]byte{0x39, 0xfe},        // cmp esi, edi
			[]byte{0x72, 0x02},        // jb skip
			write,                     // inc dword [rsi]
			operand(4096, 0x81, 0xc6), // skip: add esi, 4096
			operand(uint32(memoryMiB)<<20, 0x81, 0xfe))
		page = append(page, 0x72, byte(-len(page)-2))
		step, start = 1<<20, operand(24<<20, 0xbe)
	}
	loop := slices.Concat(start, page, operand(step, 0x81, 0xc7), microguest.Say("full\n"), delay(1<<19))
	return slices.Concat(microguest.Say("up\n"), operand(24<<20, 0xbf), loop, operand(-uint32(len(loop)+5), 0xe9))
}

// TestGenerations: a guest that writes nearly all of its RAM before each branch, so that each leaves something of the layers
// before, neither runs out of memory nor takes more and more.
func TestGenerations(t *testing.T) {
	needKVM(t)
	const memoryMiB = 80
	for _, gaps := range []bool{false, true} {
		t.Run(fmt.Sprintf("gaps=%v", gaps), func(t *testing.T) {
			var said safeBuffer
			c := startGuest(t, func(cfg *Config) { cfg.Console, cfg.MemoryMiB = &said, memoryMiB }, generationsGuest(memoryMiB, gaps))
			for generation := range 7 {
				waitFull(t, c, &said, 1)
				if err := c.Pause(t.Context()); err != nil {
					t.Fatal(err)
				}
				b, err := c.Branch(t.Context())
				if err != nil {
					t.Fatalf("generation %d: %v, %v", generation, err, c.End())
				}
				mustClose(t, b)
				time.Sleep(60 * time.Millisecond) // what is left is freed
				usage := memoryFigure(t, c, "memory.usage_in_bytes", "memory.current")
				if room := c.layered() + c.settling + memoryMiB<<20 + 16<<20; usage > room {
					t.Errorf("generation %d: it uses %d MiB, where %d are counted", generation, usage>>20, room>>20)
				}
				if err := c.Resume(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// sparseCopy is a copy of a guest, whose RAM it has written one page of each stride.
func sparseCopy(t *testing.T, memoryMiB int, stride uint32) *Cell {
	t.Helper()
	code := slices.Concat(delay(1<<20), operand(24<<20, 0xbe), touch(memoryMiB, stride), microguest.Say("full\n"), delay(1<<21), filler(memoryMiB))
	c := startGuest(t, func(cfg *Config) { cfg.MemoryMiB = memoryMiB }, code)
	b, err := c.Branch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, b)
	if err := c.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	var said safeBuffer
	copied, err := Start(t.Context(), Config{ID: testID + "-first", Program: program(t), From: b, Console: &said})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeCell(t, copied) })
	waitFull(t, copied, &said, 1)
	return copied
}

// TestCopyOfSparseMemory: a copy of a guest whose pages lie here and there writes all of its RAM, and the layers take what
// they took.
func TestCopyOfSparseMemory(t *testing.T) {
	needKVM(t)
	const memoryMiB = 128
	c := sparseCopy(t, memoryMiB, 17)
	if err := c.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := c.Branch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, b)
	_, before, err := b.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var said safeBuffer
	copied, err := Start(t.Context(), Config{ID: testID + "-copy", Program: program(t), From: b, Console: &said})
	if err != nil {
		t.Fatal(err)
	}
	defer closeCell(t, copied)
	waitFull(t, copied, &said, 2)
	if _, after, err := b.Layers(); err != nil || after != before {
		t.Errorf("the layers have %d KiB, and had %d before: %v", after>>10, before>>10, err)
	}
}

// TestMemoryInManyPlaces: more than there is room for in one message.
func TestMemoryInManyPlaces(t *testing.T) {
	needKVM(t)
	c := sparseCopy(t, 512, 18)
	b, err := c.Branch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, b)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if said, err := c.places(ctx); err != nil || len(said.Places) < 3*2*maxPlaces {
		t.Fatalf("%d places: %v", len(said.Places)/3, err)
	}
	if _, err := c.Memory(ctx); err != nil || c.End() != nil {
		t.Errorf("%v; the cell's end: %v", err, c.End())
	}
}

func closeCell(t *testing.T, c *Cell) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
