package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// zeroed is a file of only zeros where it was not written.
type zeroed struct {
	head []byte
	size int64
}

func (z zeroed) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= z.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), z.size-off))
	clear(p[:n])
	if off < int64(len(z.head)) {
		copy(p[:n], z.head[off:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// FuzzOpen: any bytes are a file within all bounds, or an error of a kind. The header's digest is made to fit if asked
// for, so that what comes after it is reached.
func FuzzOpen(f *testing.F) {
	path, _ := written(f)
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	small := smallFile(f)
	f.Add(small, uint32(0), false)
	f.Add(small, uint32(0), true)
	f.Add(small[:len(small)-1], uint32(0), false)
	f.Add(whole[:PageSize], uint32(len(whole)), true)
	for _, at := range []int{8, 12, 16, 24, 32, 40, 48, 100} {
		b := bytes.Clone(small)
		binary.LittleEndian.PutUint64(b[at:], 1<<63|uint64(at))
		f.Add(b, uint32(1<<30), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, more uint32, fit bool) {
		if fit && len(b) >= PageSize {
			b = bytes.Clone(b)
			sum := sha256.Sum256(b[:sumPlace])
			copy(b[sumPlace:PageSize], sum[:])
		}
		size := int64(len(b)) + int64(more%(1<<20))
		s, err := decode(zeroed{b, size}, size)
		if err != nil {
			if !typed(err) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		if offset, n := s.Memory(); offset+n > uint64(size) || len(s.State) > MaxState || len(s.Prefetch) > MaxRuns {
			t.Fatalf("%d bytes of memory, %d of state in a file of %d", n, len(s.State), size)
		}
		if err := s.verify(t.Context(), zeroed{b, size}); err != nil && !typed(err) {
			t.Fatalf("untyped error: %v", err)
		}
	})
}

// smallFile is a file of one page of memory.
func smallFile(t testing.TB) []byte {
	path := filepath.Join(t.TempDir(), "machine")
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	page := bytes.Repeat([]byte("x"), PageSize)
	if _, err := w.WriteMemory(t.Context(), []Extent{{Size: PageSize, Source: bytes.NewReader(page)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(exampleAbout(), []byte("state"), exampleRuns()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzSections: sections of any content, with digests that fit.
func FuzzSections(f *testing.F) {
	a := exampleAbout()
	f.Add(a.encode(), encodeRuns(exampleRuns()))
	f.Add(a.encode(), encodeRuns([]Run{{RAM: 1 << 63, Size: 1 << 63}}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, []byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, about, prefetch []byte) {
		got, err := decodeAbout(about)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		if again, err := decodeAbout(got.encode()); err != nil || !reflect.DeepEqual(again, got) {
			t.Fatalf("%+v has become %+v, %v", got, again, err)
		}
		if err := got.CPU.Fits(exampleAbout().CPU); err != nil && !errors.Is(err, ErrCPU) {
			t.Fatalf("untyped error: %v", err)
		}
		memory := uint64(got.MemoryMiB) << 20
		runs, err := decodeRuns(prefetch, memory)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		at := uint64(0)
		for _, r := range runs {
			if r.RAM < at || r.RAM+r.Size > memory || r.RAM+r.Size <= r.RAM {
				t.Fatalf("run %+v of %d bytes", r, memory)
			}
			at = r.RAM + r.Size
		}
	})
}
