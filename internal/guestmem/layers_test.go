package guestmem

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSpans(t *testing.T) {
	a, b := []span{{0, 2}, {4, 6}, {10, 12}}, []span{{1, 5}, {7, 8}, {12, 14}}
	if got, want := union(a, b), []span{{0, 6}, {7, 8}, {10, 14}}; !slices.Equal(got, want) {
		t.Errorf("together they are %v, not %v", got, want)
	}
	if got, want := subtract(union(a, b), a), []span{{2, 4}, {7, 8}, {12, 14}}; !slices.Equal(got, want) {
		t.Errorf("without the first ones they are %v, not %v", got, want)
	}
	if got, want := subtract(a, []span{{0, 1}, {5, 11}}), []span{{1, 2}, {4, 5}, {11, 12}}; !slices.Equal(got, want) {
		t.Errorf("what is left is %v, not %v", got, want)
	}
	if got, want := joinGaps(a, 2), []span{{0, 6}, {10, 12}}; !slices.Equal(got, want) {
		t.Errorf("joined they are %v, not %v", got, want)
	}
}

// TestLayersAreBounded: memory that is branched for ever keeps a bounded number of layers, and its content.
func TestLayersAreBounded(t *testing.T) {
	for _, test := range []struct {
		name string
		most int
		// written is which pages are written before each branch.
		written func(round int) (page, n int)
	}{
		{"few pages", 8, func(round int) (page, n int) { return round * 37 % 1000, 1 + round%3 }},
		{"always the same", 3, func(int) (page, n int) { return 100, 200 }},
		{"a large part each time", 2*smallPart + 8, func(round int) (page, n int) { return round * 700 % 15000, 700 }},
		// What each layer keeps is one page: all others are written again.
		{"a rest in each layer", 8, func(round int) (page, n int) { return 1 + round, 2000 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			if most := testLayersAreBounded(t, 64<<20, test.written); most > test.most {
				t.Errorf("up to %d layers, not %d", most, test.most)
			}
		})
	}
}

func testLayersAreBounded(t *testing.T, size int, written func(round int) (page, n int)) (most int) {
	p := pagemap(t)
	files := openFiles(t)
	mem, err := New(uint64(size), Options{})
	if err != nil {
		t.Fatal(err)
	}
	before := mappedLayers(t)
	r := &related{mem: mem, want: make([]byte, size)}
	write := func(page, n int, v byte) {
		fill := bytes.Repeat([]byte{v}, n*PageSize)
		copy(r.want[page*PageSize:], fill)
		if err := mem.WriteAt(fill, uint64(page*PageSize)); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 1000, 1)
	for round := range 100 {
		image, err := imageOf(mem, p)
		if err == nil {
			err = mem.Settle()
		}
		if err != nil {
			t.Fatal(err)
		}
		// Those that were taken in by the last one are mapped until the next one.
		if files := mappedLayers(t) - before; files > 2*len(image.Layers())+fewLayers {
			t.Fatalf("round %d: %d files are mapped for %d layers", round, files, len(image.Layers()))
		}
		most = max(most, len(image.Layers()))
		child, err := image.Fork(Options{})
		if err != nil {
			t.Fatal(err)
		}
		if round%10 == 0 {
			(&related{child, r.want}).check(t, "child")
			r.check(t, "parent")
		}
		if err := child.Close(); err != nil {
			t.Error(err)
		}
		if err := image.Close(); err != nil {
			t.Error(err)
		}
		page, n := written(round)
		write(page, n, byte(round))
	}
	r.check(t, "at the end")
	if err := mem.Close(); err != nil {
		t.Error(err)
	}
	if n := openFiles(t); n != files {
		t.Errorf("%d files are open, %d before", n, files)
	}
	return most
}

// mappedLayers counts the memory files that this process has mapped.
func mappedLayers(t *testing.T) int {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) > 5 && strings.Contains(fields[5], "aether-guest-memory") {
			files[fields[4]] = true
		}
	}
	return len(files)
}

// allocated is how many bytes of memory a layer takes.
func allocated(t *testing.T, l *Layer) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := control(l.file, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestBranchWithoutRoom: a layer that cannot be filled up stays with what was written, and one that cannot be finished is by the
// next attempt.
func TestBranchWithoutRoom(t *testing.T) {
	p := pagemap(t)
	m := newMemory(t, 4*mib)
	base := branch(t, m, p)
	child, err := base.Fork(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	write(t, child, 10*PageSize, "one")
	write(t, child, 20*PageSize, "two")
	if err := child.Split(p); err != nil {
		t.Fatal(err)
	}
	closed, err := os.Open(os.DevNull)
	if err == nil {
		err = closed.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	// What lies between cannot be read.
	child.split.below.extents = []Extent{{Size: 4 * mib, Layer: &Layer{file: closed, size: 4 * mib}}}
	image, err := child.Image(1)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if n := len(image.extents); n != 5 {
		t.Errorf("%d extents: %v", n, image.extents)
	}
	wantAt(t, child, 10*PageSize, "one")
	copied, err := image.Fork(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	wantAt(t, copied, 20*PageSize, "two")

	write(t, child, 10*PageSize, "six")
	if err := child.Split(p); err != nil {
		t.Fatal(err)
	}
	file := child.split.layer.file
	child.split.layer.file = closed
	if _, err := child.Image(1); err == nil {
		t.Error("a layer that cannot be sealed is no error")
	}
	child.split.layer.file = file
	write(t, child, 10*PageSize, "ten")
	if err := child.Split(p); err != nil { // finishes the one before
		t.Fatal(err)
	}
	last, err := child.Image(1)
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	for _, l := range last.Layers() {
		if !IsSealed(l.file) {
			t.Error("a layer is not sealed")
		}
	}
	wantAt(t, child, 10*PageSize, "ten")
	wantAt(t, child, 20*PageSize, "two")
}

// TestSettleBesideImage: what the branch before has left may be freed at any moment.
func TestSettleBesideImage(t *testing.T) {
	p := pagemap(t)
	m := newMemory(t, 4*mib)
	branch(t, m, p)
	stop := make(chan struct{})
	var other sync.WaitGroup
	other.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = m.Settle()
			}
		}
	})
	defer other.Wait()
	defer close(stop)
	for round := range uint64(3000) {
		write(t, m, round%1000*PageSize, "x")
		image, err := imageOf(m, p)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range image.Layers() {
			if _, err := l.file.Stat(); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if err := image.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMappingsAreBounded: of a memory that writes a page here and there, more than a process may have mappings.
func TestMappingsAreBounded(t *testing.T) {
	p := pagemap(t)
	const size = 320 * mib
	m := newMemory(t, size)
	branch(t, m, p)
	mappings := func() int {
		raw, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(raw, []byte("\n"))
	}
	before := mappings()
	for round := range uint64(3) {
		for at := round * 2 * PageSize; at < size; at += 6 * PageSize {
			write(t, m, at, "x")
		}
		branch(t, m, p)
		if n := mappings() - before; n > 2*maxMapped {
			t.Errorf("round %d: %d mappings more", round, n)
		}
	}
}

// TestFullImage: one that has as many extents as possible has no more when a page is written.
func TestFullImage(t *testing.T) {
	p := pagemap(t)
	const size = MaxExtents * 4 * PageSize
	l := frozen(t, "x", size)
	var extents []Extent
	for at := uint64(0); at < size; at += 4 * PageSize {
		extents = append(extents, Extent{RAM: at, Size: 3 * PageSize, Layer: l, Offset: at})
	}
	base, err := NewImage(size, []*Layer{l}, extents)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	m, err := base.Fork(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	write(t, m, PageSize, "y")
	if n := len(branch(t, m, p).extents); n > MaxExtents {
		t.Errorf("%d extents", n)
	}
}

// TestFilledGapsHaveMemory: what a layer has of zeros takes memory when it is made, and not when a copy reads it.
func TestFilledGapsHaveMemory(t *testing.T) {
	p := pagemap(t)
	base, err := NewImage(4*mib, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	m, err := base.Fork(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	write(t, m, 10*PageSize, "x")
	write(t, m, 20*PageSize, "x")
	image := branch(t, m, p)
	layer := image.Layers()[0]
	if n := allocated(t, layer); n != 11*PageSize {
		t.Errorf("the layer has %d bytes", n)
	}
	copied, err := image.Fork(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	for page := range uint64(40) {
		wantAt(t, copied, page*PageSize+8, "\x00")
		write(t, copied, page*PageSize+8, "y")
	}
	if n := allocated(t, layer); n != 11*PageSize {
		t.Errorf("after a copy has used it, the layer has %d bytes", n)
	}
}
