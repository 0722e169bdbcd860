package cell

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/microguest"
)

// filler is a guest that writes all pages of its RAM of so many MiB from 24 MiB on, says "full", and begins again.
func filler(memoryMiB int) []byte {
	loop := slices.Concat(operand(24<<20, 0xbe), touch(memoryMiB, 1), microguest.Say("full\n")) // mov esi, 24 MiB
	return slices.Concat(microguest.Say("up\n"), loop, operand(-uint32(len(loop)+5), 0xe9))     // jmp to the beginning
}

// operand is an instruction with a number of 32 bits.
func operand(n uint32, op ...byte) []byte { return binary.LittleEndian.AppendUint32(op, n) }

// delay is code that takes a while: a guest that is paused in it has said that it is ready for that.
func delay(n uint32) []byte {
	return slices.Concat(operand(n, 0xb9), []byte{0xff, 0xc9, 0x75, 0xfc}) // mov ecx, n; dec ecx; jnz
}

// touch is code that writes a page after the other, from esi on: all, or one of each stride.
func touch(memoryMiB int, stride uint32) []byte {
	code := slices.Concat([]byte{0xff, 0x06}, operand(4096*stride, 0x81, 0xc6), operand(uint32(memoryMiB)<<20, 0x81, 0xfe))
	return append(code, 0x72, byte(-len(code)-2)) // inc dword [rsi]; add esi, ...; cmp esi, ...; jb
}

// waitFull waits until a filler has written all of it so many times more.
func waitFull(t *testing.T, c *Cell, said *safeBuffer, times int) {
	t.Helper()
	before := strings.Count(said.text(), "full")
	for begin := time.Now(); strings.Count(said.text(), "full") < before+times; time.Sleep(time.Millisecond) {
		if c.End() != nil || time.Since(begin) > 20*time.Second {
			t.Fatalf("the guest has said %d bytes; its end: %v", said.size(), c.End())
		}
	}
}

// memoryFigure reads a number of a cell's control group: its limit, or the most that it has used.
func memoryFigure(t *testing.T, c *Cell, v1, v2 string) int64 {
	t.Helper()
	if c.process.group == nil || c.process.group.memoryFile == "" {
		t.Skip("this host has no limits of memory")
	}
	dir := filepath.Dir(c.process.group.memoryFile)
	text, err := os.ReadFile(filepath.Join(dir, v1))
	if errors.Is(err, os.ErrNotExist) {
		text, err = os.ReadFile(filepath.Join(dir, v2))
	}
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("this kernel has no %s", v2) // memory.peak is of Linux 5.19
	}
	n, parseErr := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err := errors.Join(err, parseErr); err != nil {
		t.Fatal(err)
	}
	return n
}

// A guest that has written all of its RAM, was branched, and has written all of it once more has not reached the limit; nor
// has its copy.
func TestFullMemory(t *testing.T) {
	const memoryMiB = 128
	var said, copySaid safeBuffer
	c := startGuest(t, func(cfg *Config) { cfg.Console, cfg.MemoryMiB = &said, memoryMiB }, filler(memoryMiB))
	waitFull(t, c, &said, 2)
	b, err := c.Branch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, b)
	waitFull(t, c, &said, 3)
	child, err := Start(t.Context(), Config{ID: testID + "-copy", Program: program(t), From: b, Console: &copySaid})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := child.Close(); err != nil {
			t.Error(err)
		}
	}()
	waitFull(t, child, &copySaid, 3)
	for name, cell := range map[string]*Cell{"original": c, "copy": child} {
		limit := memoryFigure(t, cell, "memory.limit_in_bytes", "memory.max")
		most := memoryFigure(t, cell, "memory.max_usage_in_bytes", "memory.peak")
		t.Logf("%s: %d MiB of %d MiB", name, most>>20, limit>>20)
		if cell.process.group.killed() || most > limit-16<<20 {
			t.Errorf("%s: has used %d bytes of %d", name, most, limit)
		}
	}
}

// lowered starts a cell that may have so many MiB more than it takes before it has a virtual machine.
func lowered(t *testing.T, cfg Config, mib int64) (*Cell, error) {
	t.Helper()
	vcpus, memoryMiB := cfg.VCPUs, cfg.MemoryMiB
	if cfg.From != nil {
		vcpus, memoryMiB = cfg.From.VCPUs(), cfg.From.MemoryMiB()
	}
	s, err := Prepare(t.Context(), SpareConfig{ID: cfg.ID, Program: program(t), VCPUs: vcpus, MemoryMiB: memoryMiB})
	if err != nil {
		t.Fatal(err)
	}
	limit := memoryFigure(t, s.cell, "memory.usage_in_bytes", "memory.current") + mib<<20
	if err := s.cell.process.group.allow(limit - s.cell.process.group.memory); err != nil {
		t.Fatal(errors.Join(err, s.Close()))
	}
	return s.Start(t.Context(), cfg)
}

// runsOut expects that a cell ends because its limit was reached, says so, and leaves nothing.
func runsOut(t *testing.T, c *Cell, err error) {
	t.Helper()
	if err == nil {
		end := waitEnd(t, c)
		if err = end; end.Reason != ReasonMemory || !strings.Contains(end.Error(), "out of memory") {
			t.Errorf("it ended with %v", end)
		}
		if _, err := c.Branch(t.Context()); !errors.Is(err, ErrMemory) {
			t.Errorf("a branch of it: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if !errors.Is(err, ErrMemory) || !errors.Is(err, ErrEnded) {
		t.Errorf("the error is %v", err)
	}
	t.Log(err)
}

// A guest, and then a copy of one, writes more than its cell may have: the kernel ends the cell, and its owner is told why.
// Nothing is left, and the original, which writes as much, goes on.
func TestOutOfMemory(t *testing.T) {
	const memoryMiB = 64
	o := newKillsOwner(t)                                                // its parent is a guest that must be unharmed
	memoryFigure(t, o.parent, "memory.usage_in_bytes", "memory.current") // or there is nothing to test
	kernel := guestFile(t, filler(memoryMiB))
	files := len(openFiles())
	for _, mib := range []int64{1, 8, 24} { // the filler writes 40
		c, err := lowered(t, Config{ID: o.id("-low"), Kernel: kernel, VCPUs: 1, MemoryMiB: memoryMiB}, mib)
		runsOut(t, c, err)
		o.unharmed(t, "a guest without memory", files)
	}
	var said safeBuffer
	c, err := Start(t.Context(), Config{ID: o.id("-original"), Program: program(t), Kernel: kernel, VCPUs: 1, MemoryMiB: memoryMiB, Console: &said})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	waitFull(t, c, &said, 1)
	b, err := c.Branch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, mib := range []int64{1, 8, 24} {
		child, err := lowered(t, Config{ID: o.id("-copy"), From: b}, mib)
		runsOut(t, child, err)
	}
	waitFull(t, c, &said, 2)
	var copySaid safeBuffer
	child, err := Start(t.Context(), Config{ID: o.id("-enough"), Program: program(t), From: b, Console: &copySaid})
	if err != nil {
		t.Fatal(err)
	}
	waitFull(t, child, &copySaid, 2)
	if err := errors.Join(child.Close(), b.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	o.unharmed(t, "a copy without memory", files)
}
