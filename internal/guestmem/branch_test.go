package guestmem

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func pagemap(t testing.TB) *Pagemap {
	t.Helper()
	p, err := OpenPagemap()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// imageOf is a branch of memory that nobody writes meanwhile.
func imageOf(m *Memory, p *Pagemap) (*Image, error) {
	if err := m.Split(p); err != nil {
		return nil, err
	}
	return m.Image(1)
}

// related is memory and what it must hold.
type related struct {
	mem  *Memory
	want []byte
}

func (r *related) check(t *testing.T, what string) {
	t.Helper()
	for i, at := range r.mem.regions {
		if i > 0 {
			t.Fatal("the model has one region")
		}
		if !bytes.Equal(at.Mem, r.want) {
			for n := range r.want {
				if at.Mem[n] != r.want[n] {
					t.Fatalf("%s: byte %#x is %#x, not %#x", what, n, at.Mem[n], r.want[n])
				}
			}
		}
	}
}

// TestFamily grows a tree of forks and branches with random writes and compares each with a model.
func TestFamily(t *testing.T) {
	for _, noScan := range []bool{false, true} {
		t.Run(fmt.Sprintf("noScan=%v", noScan), func(t *testing.T) {
			p := pagemap(t)
			p.noScan = noScan
			family(t, p, rand.New(rand.NewPCG(1, 2)), 200)
		})
	}
}

func family(t *testing.T, p *Pagemap, r *rand.Rand, rounds int) {
	const size = 4 << 20
	files := openFiles(t)
	first, err := New(size, Options{})
	if err != nil {
		t.Fatal(err)
	}
	living := []*related{{mem: first, want: make([]byte, size)}}
	defer func() {
		for _, m := range living {
			if err := m.mem.Close(); err != nil {
				t.Error(err)
			}
		}
		if n := openFiles(t); n != files {
			t.Errorf("%d files are open, before it were %d", n, files)
		}
	}()
	write := func(m *related) {
		for range r.IntN(20) {
			off := r.IntN(size)
			n := min(1+r.IntN(3*PageSize), size-off)
			fill := bytes.Repeat([]byte{byte(r.IntN(255) + 1)}, n)
			copy(m.want[off:], fill)
			if err := m.mem.WriteAt(fill, uint64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for round := range rounds {
		m := living[r.IntN(len(living))]
		write(m)
		if r.IntN(3) == 0 {
			if _, err := m.mem.GiveBack(p); err != nil {
				t.Fatal(err)
			}
			m.check(t, "what has given back")
		}
		if err := m.mem.Split(p); err != nil {
			t.Fatal(err)
		}
		then := bytes.Clone(m.want)
		write(m) // the guest runs
		image, err := m.mem.Image(1)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(image.extents); n > MaxExtents {
			t.Fatalf("round %d: %d extents", round, n)
		}
		m.check(t, "parent after its branch")
		for range r.IntN(3) {
			child, err := image.Fork(Options{})
			if err != nil {
				t.Fatal(err)
			}
			living = append(living, &related{child, bytes.Clone(then)})
		}
		if err := image.Close(); err != nil {
			t.Fatal(err)
		}
		for len(living) > 12 {
			i := r.IntN(len(living))
			if err := living[i].mem.Close(); err != nil {
				t.Fatal(err)
			}
			living = append(living[:i], living[i+1:]...)
		}
	}
	for i, m := range living {
		m.check(t, fmt.Sprintf("memory %d at the end", i))
	}
}

// TestBranchTakesWhatWasWritten: a branch holds the pages written since the last one and not more.
func TestBranchTakesWhatWasWritten(t *testing.T) {
	p := pagemap(t)
	m := newMemory(t, 64*mib)
	write(t, m, 5*PageSize, "booted")
	base := branch(t, m, p)
	if got := len(base.Layers()); got != 1 {
		t.Fatalf("%d layers", got)
	}
	child, err := base.Fork(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	for _, page := range []uint64{100, 101, 200, 203, 219, 9000} { // 203 and 219: the gaps are filled
		write(t, child, page*PageSize, "own")
	}
	if _, err := child.ReadUint32(70 * PageSize); err != nil { // reading is not writing
		t.Fatal(err)
	}
	image := branch(t, child, p)
	layers := image.Layers()
	if len(layers) != 2 || allocated(t, layers[1]) != (2+20+1)*PageSize {
		t.Fatalf("%d layers, the last with %d bytes", len(layers), allocated(t, layers[len(layers)-1]))
	}
	// Nothing was written: nothing to take.
	if again := branch(t, child, p); len(again.Layers()) != 2 || len(again.extents) != len(image.extents) {
		t.Errorf("a second branch has %d layers", len(again.Layers()))
	}
	wantAt(t, child, 203*PageSize, "own")
	wantAt(t, child, 5*PageSize, "booted")
}

func branch(t testing.TB, m *Memory, p *Pagemap) *Image {
	t.Helper()
	i, err := imageOf(m, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close() })
	return i
}

// TestExtentsAreBounded: however scattered the writes are and however deep the tree.
func TestExtentsAreBounded(t *testing.T) {
	p := pagemap(t)
	const size = 64 << 20
	m := newMemory(t, size)
	want := make([]byte, size)
	r := rand.New(rand.NewPCG(3, 4))
	for depth := range 50 {
		for range 300 {
			off := r.IntN(size/PageSize) * PageSize
			want[off] = byte(depth + 1)
			write(t, m, uint64(off), string(want[off:off+1]))
		}
		image := branch(t, m, p)
		if n := len(image.extents); n > MaxExtents {
			t.Fatalf("depth %d: %d extents", depth, n)
		}
	}
	child, err := m.image.Fork(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	if !bytes.Equal(child.regions[0].Mem, want) {
		t.Error("the child at depth 50 is not what its parent was")
	}
}

func TestLayersThatNobodyUsesAreFreed(t *testing.T) {
	p := pagemap(t)
	before := openFiles(t)
	m, err := New(2*mib, Options{})
	if err != nil {
		t.Fatal(err)
	}
	image, err := imageOf(m, p)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		// Each branch covers all that the one before has written.
		write(t, m, 0, strings.Repeat("x", 2<<20))
		next, err := imageOf(m, p)
		if err != nil {
			t.Fatal(err)
		}
		if err := image.Close(); err != nil {
			t.Fatal(err)
		}
		image = next
	}
	// Not in the time in which the guest stands still.
	if n := openFiles(t) - before; n != 11 {
		t.Errorf("%d layers are open after 11 branches", n)
	}
	if err := m.Settle(); err != nil {
		t.Fatal(err)
	}
	if n := openFiles(t) - before; n != 1 {
		t.Errorf("%d layers are open for content that one has", n)
	}
	write(t, m, 0, strings.Repeat("y", 2<<20))
	last, err := imageOf(m, p)
	if err != nil {
		t.Fatal(err)
	}
	// The end of the memory does it, too.
	if err := errors.Join(last.Close(), m.Close(), m.Settle()); err != nil {
		t.Fatal(err)
	}
	if n := openFiles(t) - before; n != 1 {
		t.Errorf("%d layers are open beside the image's", n-1)
	}
	if err := errors.Join(m.Close(), image.Close(), image.Close()); err != nil {
		t.Fatal(err)
	}
	if n := openFiles(t); n != before {
		t.Errorf("%d files are open, before it were %d", n, before)
	}
}

// TestBranchFails: memory that cannot be sealed goes on as it was.
func TestBranchFails(t *testing.T) {
	p := pagemap(t)
	m := newMemory(t, 2*mib)
	write(t, m, 0, "before")
	// Somebody else has the file mapped for writing.
	other, err := unix.Mmap(int(m.file.Fd()), 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := imageOf(m, p); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("branch of memory that somebody can write: %v", err)
	}
	write(t, m, 0, "after!")
	if got := string(other[:6]); got != "after!" {
		t.Errorf("the file holds %q: the memory is no longer the file", got)
	}
	if err := unix.Munmap(other); err != nil {
		t.Fatal(err)
	}
	branch(t, m, p)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := imageOf(m, p); !errors.Is(err, ErrClosed) {
		t.Errorf("branch of closed memory: %v", err)
	}
	l := frozen(t, "x", PageSize)
	loose, err := Fork(PageSize, []Extent{l.Extent()}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer loose.Close()
	if _, err := imageOf(loose, p); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("branch of memory without an image: %v", err)
	}
}

func TestImageRefusesNonsense(t *testing.T) {
	l := frozen(t, "x", 2*PageSize)
	for name, e := range map[string]Extent{
		"beyond RAM":   {RAM: PageSize, Size: 2 * PageSize, Layer: l},
		"beyond layer": {Size: 2 * PageSize, Layer: l, Offset: PageSize},
		"empty":        {Layer: l},
		"no layer":     {Size: PageSize},
	} {
		if _, err := newImage(2*PageSize, []*layerRef{newLayerRef(l)}, []Extent{e}); !errors.Is(err, ErrSize) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// FuzzOverlay compares the arithmetic of extents with that of single pages.
func FuzzOverlay(f *testing.F) {
	f.Add([]byte{0, 4, 2, 1, 1, 9})
	f.Add([]byte{0, 16, 3, 2, 7, 2, 1, 12})
	f.Fuzz(func(t *testing.T, data []byte) {
		const pages = 32
		layers := make([]*Layer, 4)
		for i := range layers {
			layers[i] = &Layer{size: pages * PageSize}
		}
		type source struct {
			l   *Layer
			off uint64
		}
		var model [pages]source
		var flat []Extent
		for i := 0; i+1 < len(data) && i < 64; i += 2 {
			start, n := uint64(data[i])%pages, uint64(data[i+1])%8+1
			n = min(n, pages-start)
			l, off := layers[data[i]>>5&3], uint64(data[i+1]>>4)
			for p := range n {
				model[start+p] = source{l, off + p}
			}
			flat = overlay(flat, []Extent{{RAM: start * PageSize, Size: n * PageSize, Layer: l, Offset: off * PageSize}})
		}
		var end uint64
		var got [pages]source
		for _, e := range flat {
			if e.RAM < end || e.Size == 0 {
				t.Fatalf("%v after %#x", e, end)
			}
			end = e.end()
			for p := e.RAM / PageSize; p < end/PageSize; p++ {
				got[p] = source{e.Layer, (e.Offset + p*PageSize - e.RAM) / PageSize}
			}
		}
		if got != model {
			t.Fatalf("got %v, want %v", got, model)
		}
	})
}

// BenchmarkBranch is Branch with so many MiB written, beside what copying them once costs.
func BenchmarkBranch(b *testing.B) {
	for _, written := range []int{0, 4, 16, 64} {
		setup := func(b *testing.B) (*Memory, *Pagemap) {
			p := pagemap(b)
			m := newMemory(b, 256*mib)
			branch(b, m, p)
			return m, p
		}
		dirty := func(m *Memory) {
			for off := 0; off < written<<20; off += PageSize {
				m.regions[0].Mem[off]++
			}
		}
		b.Run(fmt.Sprintf("op=branch/written=%dMiB", written), func(b *testing.B) {
			m, p := setup(b)
			for b.Loop() {
				b.StopTimer()
				dirty(m)
				b.StartTimer()
				image, err := imageOf(m, p)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				_ = image.Close()
				_ = m.Settle()
				b.StartTimer()
			}
		})
		b.Run(fmt.Sprintf("op=copy/written=%dMiB", written), func(b *testing.B) {
			m, _ := setup(b)
			for b.Loop() {
				b.StopTimer()
				dirty(m)
				file, err := memfd(uint64(max(written, 1)) * mib)
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if err := writeAll(file, m.regions[0].Mem[:written<<20], 0); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				_ = file.Close()
				b.StartTimer()
			}
		})
	}
}
