package guestmem

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	kib = uint64(1) << 10
	mib = uint64(1) << 20
	gib = uint64(1) << 30
)

func newMemory(t testing.TB, size uint64) *Memory {
	t.Helper()
	m, err := New(size, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func write(t testing.TB, m *Memory, gpa uint64, s string) {
	t.Helper()
	if err := m.WriteAt([]byte(s), gpa); err != nil {
		t.Fatal(err)
	}
}

func wantAt(t testing.TB, m *Memory, gpa uint64, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if err := m.ReadAt(got, gpa); err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("at %#x: %q, want %q", gpa, got, want)
	}
}

func TestLayout(t *testing.T) {
	for _, tc := range []struct {
		size uint64
		want []Range
	}{
		{PageSize, []Range{{0, PageSize}}},
		{64 * mib, []Range{{0, 64 * mib}}},
		{3*gib - PageSize, []Range{{0, 3*gib - PageSize}}},
		{3 * gib, []Range{{0, 3 * gib}}},
		{3*gib + PageSize, []Range{{0, 3 * gib}, {4 * gib, PageSize}}},
		{4 * gib, []Range{{0, 3 * gib}, {4 * gib, gib}}},
		{MaxSize, []Range{{0, 3 * gib}, {4 * gib, MaxSize - 3*gib}}},
		{0, nil},
		{PageSize - 1, nil},
		{PageSize + 1, nil},
		{MaxSize + PageSize, nil},
		{^uint64(0), nil},
		{^uint64(0) &^ (PageSize - 1), nil},
	} {
		got, err := Layout(tc.size)
		if !slices.Equal(got, tc.want) || (err == nil) != (tc.want != nil) || (err != nil && !errors.Is(err, ErrSize)) {
			t.Errorf("Layout(%#x) = %v, %v, want %v", tc.size, got, err, tc.want)
		}
	}
}

func TestMemoryAcrossHole(t *testing.T) {
	m := newMemory(t, 4*gib)
	regions, err := m.Regions()
	if err != nil {
		t.Fatal(err)
	}
	if len(regions) != 2 || regions[1].GPA != HoleEnd || m.Size() != 4*gib {
		t.Fatalf("regions of 4 GiB: %d, size %d", len(regions), m.Size())
	}
	if got, want := m.Ranges(), []Range{{0, 3 * gib}, {4 * gib, gib}}; !slices.Equal(got, want) {
		t.Errorf("Ranges = %v, want %v", got, want)
	}
	write(t, m, HoleStart-4, "last")
	write(t, m, HoleEnd, "next")
	wantAt(t, m, HoleStart-4, "last")
	wantAt(t, m, HoleEnd, "next")
	// The memory file has no hole: what follows the low region's last byte is the high region's first.
	linear := make([]byte, 8)
	if _, err := m.file.ReadAt(linear, int64(HoleStart-4)); err != nil || string(linear) != "lastnext" {
		t.Errorf("memory file at the hole: %q, %v", linear, err)
	}
	if err := m.WriteAt([]byte("across"), HoleStart-3); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("write into the hole: %v", err)
	}
	wantAt(t, m, HoleStart-4, "last") // nothing was written, not even the part that fits
}

func TestSizesRefused(t *testing.T) {
	l := frozen(t, "x", 2*PageSize)
	for _, size := range []uint64{0, 1, PageSize + 1, MaxSize + PageSize} {
		if _, err := New(size, Options{}); !errors.Is(err, ErrSize) {
			t.Errorf("New(%#x): %v", size, err)
		}
		if _, err := Fork(size, nil, Options{}); !errors.Is(err, ErrSize) {
			t.Errorf("Fork(%#x): %v", size, err)
		}
	}
	const top = ^uint64(0) &^ (PageSize - 1)
	for _, e := range []Extent{
		{Size: PageSize},
		{Layer: l},
		{Layer: l, Size: 1},
		{Layer: l, Size: PageSize, RAM: 1},
		{Layer: l, Size: PageSize, Offset: 1},
		{Layer: l, Size: 3 * PageSize},
		{Layer: l, Size: PageSize, Offset: 2 * PageSize},
		{Layer: l, Size: PageSize, Offset: top},
		{Layer: l, Size: PageSize, RAM: 4 * PageSize},
		{Layer: l, Size: PageSize, RAM: top},
		{Layer: l, Size: top, RAM: PageSize},
	} {
		if m, err := Fork(4*PageSize, []Extent{e}, Options{}); !errors.Is(err, ErrSize) {
			t.Errorf("Fork with %+v: %v, %v", e, m, err)
		}
	}
}

func TestClosed(t *testing.T) {
	m := newMemory(t, PageSize)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	var b [1]byte
	_, sliceErr := m.Slice(0, 1)
	_, regionsErr := m.Regions()
	_, loadErr := m.LoadUint16(0)
	_, readErr := m.ReadUint64(0)
	_, freezeErr := m.Freeze()
	for name, err := range map[string]error{
		"ReadAt": m.ReadAt(b[:], 0), "WriteAt": m.WriteAt(b[:], 0), "Slice": sliceErr, "Regions": regionsErr,
		"LoadUint16": loadErr, "StoreUint64": m.StoreUint64(0, 1), "ReadUint64": readErr,
		"Acquire": m.Acquire(), "Freeze": freezeErr,
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

func TestCloseWaitsForHolders(t *testing.T) {
	m := newMemory(t, PageSize)
	for range 2 {
		if err := m.Acquire(); err != nil {
			t.Fatal(err)
		}
	}
	held, err := m.Slice(0, 8)
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 2)
	for range 2 {
		go func() { closed <- m.Close() }()
	}
	for m.Acquire() == nil { // until a Close has begun
		m.Release()
		time.Sleep(time.Millisecond)
	}
	m.Release()
	held[0] = 1 // still mapped
	select {
	case err := <-closed:
		t.Fatalf("Close did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	held[7] = 1
	m.Release()
	for range 2 {
		if err := <-closed; err != nil {
			t.Error(err)
		}
	}
}

func TestReleaseWithoutAcquire(t *testing.T) {
	m, err := New(PageSize, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
		m.users.Store(0)
		_ = m.Close()
	}()
	m.Release()
}

// Accesses from many goroutines while the memory is closed: each works or fails with ErrClosed. An
// access after the mapping is gone would end the test process.
func TestCloseUnderLoad(t *testing.T) {
	for range 50 {
		m, err := New(64*kib, Options{})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				gpa := uint64(g) * PageSize
				for {
					if err := m.StoreUint32(gpa, 1); err != nil {
						if !errors.Is(err, ErrClosed) {
							t.Error(err)
						}
						return
					}
					if _, err := m.ReadUint64(gpa); err != nil && !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
				}
			})
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
}

// usage counts this process's descriptors and mappings.
func usage(t *testing.T) (fds, maps int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries), bytes.Count(data, []byte("\n"))
}

func TestNoLeaks(t *testing.T) {
	cycle := func() {
		m, err := New(4*gib, Options{})
		if err != nil {
			t.Fatal(err)
		}
		write(t, m, HoleEnd, "x")
		l, err := m.Freeze()
		if err != nil {
			t.Fatal(err)
		}
		f, err := Fork(5*gib, []Extent{l.Extent(), {RAM: gib, Size: mib, Layer: l}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		write(t, f, HoleEnd, "y")
		if _, err := Fork(PageSize, []Extent{l.Extent()}, Options{}); err == nil {
			t.Fatal("a layer larger than RAM was accepted")
		}
		if err := errors.Join(l.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	cycle()
	fdsBefore, mapsBefore := usage(t)
	for range 1000 {
		cycle()
	}
	fds, maps := usage(t)
	// The Go runtime maps a few arenas of its own over time.
	if fds > fdsBefore || maps > mapsBefore+20 {
		t.Errorf("after 1000 cycles %d descriptors and %d mappings, before %d and %d", fds, maps, fdsBefore, mapsBefore)
	}
}

// A failure half-way gives everything back.
func TestNoLeaksOnFailure(t *testing.T) {
	l := frozen(t, "x", PageSize)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	fdsBefore, mapsBefore := usage(t)
	for range 100 {
		if m, err := Fork(mib, []Extent{l.Extent()}, Options{}); err == nil {
			t.Fatalf("fork of a closed layer: %v", m)
		}
	}
	if fds, maps := usage(t); fds > fdsBefore || maps > mapsBefore+20 {
		t.Errorf("after 100 failures %d descriptors and %d mappings, before %d and %d", fds, maps, fdsBefore, mapsBefore)
	}
}

// TestForkWherePlaceIsTaken: while memory is mapped piece by piece, other threads map things too, some of them in its place.
func TestForkWherePlaceIsTaken(t *testing.T) {
	const size = 8 << 20
	base := frozen(t, "base", size)
	page := frozen(t, "page", PageSize)
	var extents []Extent
	for at := uint64(0); at < size; at += 4 * PageSize { // page, base, zeros
		extents = append(extents, Extent{RAM: at, Size: PageSize, Layer: page},
			Extent{RAM: at + PageSize, Size: PageSize, Layer: base, Offset: 0})
	}
	stop := make(chan struct{})
	var others sync.WaitGroup
	for range 2 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				own, err := unix.Mmap(-1, 0, 64*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
				if err != nil {
					t.Error(err)
					return
				}
				own[len(own)-1], own[0] = 1, 2 // a fault if somebody else has unmapped it
				if own[len(own)-1] != 1 || own[0] != 2 {
					t.Error("somebody else has written here")
				}
				if err := unix.Munmap(own); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 200 {
		m, err := Fork(size, extents, Options{})
		if err != nil {
			t.Fatal(err)
		}
		wantAt(t, m, 4*PageSize, "page")
		wantAt(t, m, 5*PageSize, "base")
		wantAt(t, m, 6*PageSize, "\x00\x00")
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	others.Wait()
	if _, err := compose(size, []piece{{at: 0, size: PageSize}, {at: 0, size: PageSize}}); !errors.Is(err, errTaken) {
		t.Errorf("a place that is taken: %v", err)
	}
}
