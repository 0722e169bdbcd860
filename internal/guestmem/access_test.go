package guestmem

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTypedAccess(t *testing.T) {
	m := newMemory(t, 2*PageSize)
	const at = PageSize - 8
	if err := m.WriteUint64(at, 0x0807060504030201); err != nil {
		t.Fatal(err)
	}
	wantAt(t, m, at, "\x01\x02\x03\x04\x05\x06\x07\x08")
	if v, err := m.ReadUint32(at + 1); v != 0x05040302 || err != nil {
		t.Errorf("ReadUint32 = %#x, %v", v, err)
	}
	if v, err := m.ReadUint16(at + 3); v != 0x0504 || err != nil {
		t.Errorf("ReadUint16 = %#x, %v", v, err)
	}
	if v, err := m.LoadUint64(at); v != 0x0807060504030201 || err != nil {
		t.Errorf("LoadUint64 = %#x, %v", v, err)
	}
	if v, err := m.LoadUint32(at + 4); v != 0x08070605 || err != nil {
		t.Errorf("LoadUint32 = %#x, %v", v, err)
	}
	if v, err := m.LoadUint16(at + 2); v != 0x0403 || err != nil {
		t.Errorf("LoadUint16 = %#x, %v", v, err)
	}
	for _, err := range []error{
		m.WriteUint16(0, 0x1211), m.WriteUint32(3, 0x24232221),
		m.StoreUint16(10, 0xb2b1), m.StoreUint32(12, 0xc4c3c2c1), m.StoreUint64(16, 0xd8d7d6d5d4d3d2d1),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	wantAt(t, m, 0, "\x11\x12\x00\x21\x22\x23\x24\x00\x00\x00\xb1\xb2\xc1\xc2\xc3\xc4\xd1\xd2\xd3\xd4\xd5\xd6\xd7\xd8\x00")
}

func TestAtomicAlignment(t *testing.T) {
	m := newMemory(t, PageSize)
	for gpa := range uint64(PageSize + 16) {
		_, err16 := m.LoadUint16(gpa)
		_, err32 := m.LoadUint32(gpa)
		_, err64 := m.LoadUint64(gpa)
		for _, a := range []struct {
			width uint64
			load  error
			store error
		}{
			{2, err16, m.StoreUint16(gpa, 0xffff)},
			{4, err32, m.StoreUint32(gpa, 0xffff)},
			{8, err64, m.StoreUint64(gpa, 0xffff)},
		} {
			var want error
			switch {
			case gpa+a.width > PageSize:
				want = ErrOutOfRange
			case gpa%a.width != 0:
				want = ErrMisaligned
			}
			if !errors.Is(a.load, want) || !errors.Is(a.store, want) {
				t.Fatalf("%d bytes at %#x: load %v, store %v, want %v", a.width, gpa, a.load, a.store, want)
			}
		}
	}
}

// Two processors' worth of stores to neighbouring halves: a store that touched its neighbour would
// lose one of the neighbour's values.
func TestStore16LeavesNeighbourAlone(t *testing.T) {
	m := newMemory(t, PageSize)
	done := make(chan error)
	for half := range uint64(2) {
		go func() {
			for i := range uint16(20000) {
				if err := m.StoreUint16(2*half, i); err != nil {
					done <- err
					return
				}
				if got, err := m.LoadUint16(2 * half); got != i || err != nil {
					t.Errorf("half %d: %d, %v, want %d", half, got, err, i)
					break
				}
			}
			done <- nil
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestSliceCannotGrow(t *testing.T) {
	m := newMemory(t, PageSize)
	if err := m.Acquire(); err != nil {
		t.Fatal(err)
	}
	defer m.Release()
	s, err := m.Slice(16, 8)
	if err != nil {
		t.Fatal(err)
	}
	if len(s) != 8 || cap(s) != 8 {
		t.Errorf("len %d, cap %d", len(s), cap(s))
	}
	_ = append(s, 0xff)
	wantAt(t, m, 24, "\x00")
	copy(s, "in place")
	wantAt(t, m, 16, "in place")
}

// FuzzAccess compares every kind of access with what plain arithmetic on wide numbers allows.
func FuzzAccess(f *testing.F) {
	const size = 3<<30 + 2*PageSize
	m := newMemory(f, size)
	top := ^uint64(0)
	for _, gpa := range []uint64{0, 1, PageSize, HoleStart - 1, HoleStart, HoleEnd - 1, HoleEnd, HoleEnd + 2*PageSize - 1, HoleEnd + 2*PageSize, top, top - 7, 1 << 63} {
		for _, n := range []uint64{0, 1, 8, PageSize, HoleStart, HoleEnd, size, top, top - gpa, top - gpa + 1, -gpa} {
			f.Add(gpa, n)
		}
	}
	inside := func(gpa, n uint64) bool {
		for _, r := range m.Ranges() {
			// No overflow: r.End is far below the top, and gpa is compared first.
			if gpa >= r.GPA && gpa <= r.End() && n <= r.End()-gpa {
				return true
			}
		}
		return false
	}
	f.Fuzz(func(t *testing.T, gpa, n uint64) {
		check := func(what string, n uint64, err error) {
			if ok := inside(gpa, n); ok != (err == nil) || (err != nil && !errors.Is(err, ErrOutOfRange)) {
				t.Errorf("%s of %d bytes at %#x: %v, inside: %v", what, n, gpa, err, ok)
			}
		}
		if err := m.Acquire(); err != nil {
			t.Fatal(err)
		}
		defer m.Release()
		// The memory that one input touches is given back, so that a long run does not fill the host's.
		defer func() {
			if err := unix.Fallocate(int(m.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, size); err != nil {
				t.Fatal(err)
			}
		}()
		s, err := m.Slice(gpa, n)
		check("Slice", n, err)
		if err == nil && uint64(len(s)) != n {
			t.Errorf("Slice of %d bytes has %d", n, len(s))
		}
		if len(s) > 0 { // touch both ends: they must be mapped
			s[0]++
			s[len(s)-1]++
		}
		buf := bytes.Repeat([]byte{0xa5}, int(n%8192))
		check("WriteAt", uint64(len(buf)), m.WriteAt(buf, gpa))
		got := make([]byte, len(buf))
		err = m.ReadAt(got, gpa)
		check("ReadAt", uint64(len(buf)), err)
		if err == nil && !bytes.Equal(got, buf) {
			t.Errorf("read back other bytes at %#x", gpa)
		}
		_, err = m.ReadUint64(gpa)
		check("ReadUint64", 8, err)
		check("WriteUint32", 4, m.WriteUint32(gpa, 1))
		if gpa%8 == 0 {
			_, err = m.LoadUint64(gpa)
			check("LoadUint64", 8, err)
			check("StoreUint16", 2, m.StoreUint16(gpa, 1))
		}
	})
}

func BenchmarkAccess(b *testing.B) {
	m := newMemory(b, 4<<20)
	b.Run("LoadUint16", func(b *testing.B) {
		for b.Loop() {
			_, _ = m.LoadUint16(0x1000)
		}
	})
	b.Run("StoreUint16", func(b *testing.B) {
		for b.Loop() {
			_ = m.StoreUint16(0x1000, 1)
		}
	})
	b.Run("ReadAt16", func(b *testing.B) {
		var p [16]byte
		for b.Loop() {
			_ = m.ReadAt(p[:], 0x1000)
		}
	})
}

func BenchmarkFork(b *testing.B) {
	for _, size := range []uint64{64 << 20, 1 << 30, 8 << 30} {
		l := frozen(b, "x", size)
		b.Run(sizeName(size), func(b *testing.B) {
			for b.Loop() {
				m, err := Fork(size, []Extent{l.Extent()}, Options{})
				if err != nil {
					b.Fatal(err)
				}
				if err := m.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func sizeName(size uint64) string {
	switch size {
	case 64 << 20:
		return "64MiB"
	case 1 << 30:
		return "1GiB"
	}
	return "8GiB"
}
