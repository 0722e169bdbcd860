package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

func exampleAbout() About {
	return About{
		Program: "test", StateVersion: 2, AgentVersion: 3, VCPUs: 1, MemoryMiB: 8, Network: true,
		Disks: []Disk{{Size: 512, Sum: [32]byte{1}}},
		CPU: CPU{
			Leaves: []Leaf{{Function: 0, EAX: 13}, {Function: 1, EAX: 2, EBX: 7<<24 | 5, ECX: 3}, {Function: 7, EBX: 9}},
			MSRs:   []uint32{0x10, 0x174},
		},
	}
}

func exampleRuns() []Run {
	return []Run{{RAM: 0, Size: PageSize}, {RAM: mib, Size: 3 * PageSize, Write: true}}
}

// exampleMemory is 8 MiB with something here and there, and the extents of it in two sources.
func exampleMemory() (ram []byte, extents []Extent) {
	ram = make([]byte, 8*mib)
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		ram[r.IntN(len(ram))] = 1
	}
	for i := 2 * mib; i < 3*mib; i++ {
		ram[i] = byte(r.Uint32())
	}
	clear(ram[4*mib : 5*mib])
	clear(ram[7*mib:])
	low := bytes.NewReader(ram[:3*mib])
	high := bytes.NewReader(ram[3*mib:])
	return ram, []Extent{
		{RAM: 0, Size: 3 * mib, Source: low},
		{RAM: 3 * mib, Size: mib, Source: high},
		{RAM: 5 * mib, Size: 3 * mib, Source: high, Offset: 2 * mib},
	}
}

// written writes the example and returns its path and where its memory is.
func written(t testing.TB) (string, []Placed) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "machine")
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, extents := exampleMemory()
	placed, err := w.WriteMemory(t.Context(), extents)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(exampleAbout(), []byte("state"), exampleRuns()); err != nil {
		t.Fatal(err)
	}
	return path, placed
}

func TestRoundTrip(t *testing.T) {
	path, placed := written(t)
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !reflect.DeepEqual(s.About, exampleAbout()) || string(s.State) != "state" || !reflect.DeepEqual(s.Prefetch, exampleRuns()) {
		t.Errorf("%+v %q %+v", s.About, s.State, s.Prefetch)
	}
	if err := s.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	want, _ := exampleMemory()
	got := make([]byte, len(want))
	var size uint64
	at := uint64(0)
	for _, p := range placed {
		if p.RAM < at || p.RAM%PageSize != 0 || p.Size%PageSize != 0 || p.Offset%PageSize != 0 {
			t.Errorf("placed %+v", p)
		}
		at = p.RAM + p.Size
		if _, err := s.File().ReadAt(got[p.RAM:at], int64(p.Offset)); err != nil {
			t.Fatal(err)
		}
		size += p.Size
	}
	if !bytes.Equal(got, want) {
		t.Error("memory differs")
	}
	if _, n := s.Memory(); n != size || size > 7*mib || len(placed) < 2 {
		t.Errorf("%d bytes in %d runs, %d in the file", size, len(placed), n)
	}
	info, err := s.File().Stat()
	if err != nil || info.Size()%PageSize != 0 || info.Mode().Perm() != 0o400 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if !strings.HasPrefix(s.Digest(), "sha256:") || len(s.Digest()) != 71 {
		t.Errorf("digest %q", s.Digest())
	}
	// The same content has the same digest.
	other, _ := written(t)
	o, err := Open(other)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if o.Digest() != s.Digest() {
		t.Errorf("%s and %s", o.Digest(), s.Digest())
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
}

// Every bit counts: a file with one that has changed is refused, when it is opened or when its memory is verified.
func TestFlippedBits(t *testing.T) {
	path, _ := written(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := decode(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	meta := []int{0, 9, 13, 17, 25, 40, 100, 300, PageSize - 1}
	for i, at := range s.header.Sections {
		if at.Size == 0 {
			t.Fatalf("section %d is empty", i)
		}
		meta = append(meta, int(at.Offset), int(at.Offset+at.Size-1), int(at.Offset+at.Size/2))
	}
	for _, at := range meta {
		b := bytes.Clone(whole)
		b[at] ^= 4
		if _, err := decode(bytes.NewReader(b), int64(len(b))); !typed(err) {
			t.Errorf("byte %d: %v", at, err)
		}
	}
	_, size := s.Memory()
	for range 20 {
		at := PageSize + rand.Uint64N(size)
		b := bytes.Clone(whole)
		b[at] ^= 1 << rand.N(8)
		f, err := decode(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Errorf("byte %d: %v", at, err)
			continue
		}
		if err := f.verify(t.Context(), bytes.NewReader(b)); !errors.Is(err, ErrChecksum) {
			t.Errorf("byte %d of the memory: %v", at, err)
		}
	}
}

func typed(err error) bool {
	for _, kind := range []error{ErrFormat, ErrVersion, ErrChecksum, ErrTruncated} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

func TestRefuses(t *testing.T) {
	path, _ := written(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func([]byte) []byte) []byte { return f(bytes.Clone(whole)) }
	// resealed has a header of other content, with the digest that fits.
	resealed := func(f func(*header)) []byte {
		b := bytes.Clone(whole)
		h, _, err := decodeHeader(b[:PageSize], int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		f(&h)
		copy(b, h.encode())
		return b
	}
	for name, c := range map[string]struct {
		file []byte
		want error
	}{
		"more memory than RAM, of checksums that are not looked at": {change(func(b []byte) []byte {
			h, _, err := decodeHeader(b[:PageSize], int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			about := exampleAbout()
			about.MemoryMiB = 2
			text, at := about.encode(), &h.Sections[aboutSection]
			copy(b[at.Offset:at.end()], text)
			at.Sum = sha256.Sum256(text)
			h.Sections[sumsSection].Sum[3]++
			copy(b, h.encode())
			return b
		}), ErrFormat},
		"empty":             {nil, ErrFormat},
		"text":              {[]byte("#!/bin/sh\n"), ErrFormat},
		"magic only":        {whole[:12], ErrTruncated},
		"half a header":     {whole[:2000], ErrTruncated},
		"header only":       {whole[:PageSize], ErrTruncated},
		"half":              {whole[:len(whole)/2], ErrTruncated},
		"a page less":       {whole[:len(whole)-PageSize], ErrTruncated},
		"a page more":       {append(bytes.Clone(whole), make([]byte, PageSize)...), ErrFormat},
		"next format":       {change(func(b []byte) []byte { b[8]++; return b }), ErrVersion},
		"format 0":          {change(func(b []byte) []byte { b[8] = 0; return b }), ErrVersion},
		"no memory":         {resealed(func(h *header) { h.MemorySize = 0 }), ErrFormat},
		"half a page":       {resealed(func(h *header) { h.MemorySize += 512 }), ErrFormat},
		"huge memory":       {resealed(func(h *header) { h.MemorySize = 1 << 63 }), ErrFormat},
		"much memory":       {resealed(func(h *header) { h.MemorySize = maxMemory }), ErrFormat},
		"short file":        {resealed(func(h *header) { h.FileSize -= PageSize }), ErrFormat},
		"long file":         {resealed(func(h *header) { h.FileSize += PageSize }), ErrTruncated},
		"page size":         {resealed(func(h *header) { h.PageSize = 1 << 16 }), ErrFormat},
		"section in memory": {resealed(func(h *header) { h.Sections[stateSection].Offset = PageSize }), ErrFormat},
		"section beyond":    {resealed(func(h *header) { h.Sections[prefetchSection].Offset = h.FileSize + 1 }), ErrFormat},
		"section too long":  {resealed(func(h *header) { h.Sections[stateSection].Size = MaxState + 1 }), ErrFormat},
		"section wraps":     {resealed(func(h *header) { h.Sections[prefetchSection].Offset = 1<<64 - 8 }), ErrFormat},
		"sections overlap":  {resealed(func(h *header) { h.Sections[stateSection].Offset = h.Sections[aboutSection].Offset }), ErrFormat},
		"too few checksums": {resealed(func(h *header) { h.Sections[sumsSection].Size -= 32 }), ErrFormat},
		"other checksums":   {resealed(func(h *header) { h.Sections[sumsSection].Sum[3]++ }), ErrChecksum},
		"other state":       {resealed(func(h *header) { h.Sections[stateSection].Sum[0]++ }), ErrChecksum},
		"nothing about it": {resealed(func(h *header) {
			h.Sections[aboutSection].Size, h.Sections[aboutSection].Sum = 0, sha256.Sum256(nil)
		}), ErrFormat},
		"state that is gone": {resealed(func(h *header) { h.Sections[stateSection].Size--; h.Sections[stateSection].Offset++ }), ErrChecksum},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "machine")
			if err := os.WriteFile(path, c.file, 0o600); err != nil {
				t.Fatal(err)
			}
			before := filesOpen(t)
			s, err := Open(path)
			if !errors.Is(err, c.want) || s != nil {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if after := filesOpen(t); after != before {
				t.Errorf("%d files are open, %d before", after, before)
			}
		})
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// What only leads to a file, or is none, is refused, and nobody waits for it.
func TestRefusesWhatIsNoFile(t *testing.T) {
	path, _ := written(t)
	dir := t.TempDir()
	if err := errors.Join(os.Symlink(path, filepath.Join(dir, "link")), os.Symlink("/dev/zero", filepath.Join(dir, "device")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.Mkdir(filepath.Join(dir, "directory"), 0o700)); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	before := filesOpen(t)
	for _, name := range []string{"link", "device", "fifo", "directory", "socket"} {
		done := make(chan error, 1)
		go func() {
			_, err := Open(filepath.Join(dir, name))
			done <- err
		}()
		select {
		case err := <-done:
			if !errors.Is(err, ErrFormat) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s is waited for", name)
		}
	}
	if after := filesOpen(t); after != before {
		t.Errorf("%d files are open, %d before", after, before)
	}
}

func filesOpen(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestPrefetchRefuses(t *testing.T) {
	for name, runs := range map[string][]Run{
		"empty run":   {{RAM: 0}},
		"half a page": {{RAM: 0, Size: 2048}},
		"odd place":   {{RAM: 1, Size: PageSize}},
		"beyond":      {{RAM: 8 * mib, Size: PageSize}},
		"across":      {{RAM: 0, Size: 9 * mib}},
		"wraps":       {{RAM: PageSize, Size: 1<<64 - PageSize}},
		"overlap":     {{RAM: 0, Size: 2 * PageSize}, {RAM: PageSize, Size: PageSize}},
		"backwards":   {{RAM: PageSize, Size: PageSize}, {RAM: 0, Size: PageSize}},
		"too many":    make([]Run, MaxRuns+1),
	} {
		if got, err := decodeRuns(encodeRuns(runs), 8*mib); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestFits(t *testing.T) {
	path, _ := written(t)
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	here := exampleAbout().CPU
	here.Leaves[1].EBX = 3<<24 | 5 // another thread of the same processor
	if err := s.Fits(2, 3, here); err != nil {
		t.Error(err)
	}
	for _, v := range [][2]uint32{{1, 3}, {2, 4}} {
		if err := s.Fits(v[0], v[1], here); !errors.Is(err, ErrVersion) {
			t.Errorf("versions %v: %v", v, err)
		}
	}
	for name, change := range map[string]func(*CPU){
		"a feature less":  func(c *CPU) { c.Leaves[2].EBX = 1 },
		"a feature more":  func(c *CPU) { c.Leaves[2].EBX |= 1 << 30 },
		"a leaf less":     func(c *CPU) { c.Leaves = c.Leaves[:2] },
		"a leaf more":     func(c *CPU) { c.Leaves = append(c.Leaves, Leaf{Function: 0x80000000}) },
		"a register less": func(c *CPU) { c.MSRs = c.MSRs[:1] },
		"another model":   func(c *CPU) { c.Leaves[1].EAX++ },
	} {
		other := exampleAbout().CPU
		change(&other)
		if err := s.Fits(2, 3, other); !errors.Is(err, ErrCPU) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What cannot be written leaves nothing behind.
func TestWriterLeavesNothing(t *testing.T) {
	_, extents := exampleMemory()
	short := []Extent{{RAM: 0, Size: mib, Source: bytes.NewReader(make([]byte, PageSize))}}
	for name, write := range map[string]func(*Writer) error{
		"given up":       func(*Writer) error { return errors.New("no more") },
		"no memory":      func(w *Writer) error { _, err := w.Finish(exampleAbout(), nil, nil); return err },
		"short source":   func(w *Writer) error { _, err := w.WriteMemory(t.Context(), short); return err },
		"overlap":        func(w *Writer) error { _, err := w.WriteMemory(t.Context(), append(extents, extents[0])); return err },
		"zeros":          func(w *Writer) error { _, err := w.WriteMemory(t.Context(), nil); return err },
		"cancelled":      func(w *Writer) error { _, err := w.WriteMemory(cancelled(t), extents); return err },
		"too much state": func(w *Writer) error { return finish(t, w, make([]byte, MaxState+1)) },
		"too little RAM": func(w *Writer) error {
			_, err := w.WriteMemory(t.Context(), extents)
			if err == nil {
				_, err = w.Finish(About{MemoryMiB: 1}, nil, nil)
			}
			return err
		},
		"taken away": func(w *Writer) error { _ = w.file.Close(); return finish(t, w, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, before := t.TempDir(), filesOpen(t)
			w, err := Create(filepath.Join(dir, "machine"))
			if err != nil {
				t.Fatal(err)
			}
			if err := write(w); err == nil {
				t.Error("no error")
			}
			_ = w.Abort()
			if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
				t.Errorf("left: %v, %v", list, err)
			}
			if after := filesOpen(t); after != before {
				t.Errorf("%d files are open, %d before", after, before)
			}
		})
	}
	if _, err := Create(filepath.Join(t.TempDir(), "none", "machine")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// finish writes the example's memory, and then such a state.
func finish(t *testing.T, w *Writer, state []byte) error {
	_, extents := exampleMemory()
	if _, err := w.WriteMemory(t.Context(), extents); err != nil {
		return err
	}
	_, err := w.Finish(exampleAbout(), state, nil)
	return err
}

// A disk that is full is an error of its own kind, and what was written so far is removed.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small file system: %v", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	w, err := Create(filepath.Join(dir, "machine"))
	if err != nil {
		t.Fatal(err)
	}
	if err := finish(t, w, nil); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if err := w.Abort(); err != nil {
		t.Error(err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}

// Memory with content in every other piece has no more runs than a file may have.
func TestManyHoles(t *testing.T) {
	ram := make([]byte, 512*mib/2)
	for i := 0; i < len(ram); i += 2 * minHole {
		ram[i] = 1
	}
	runs, err := content(t.Context(), []Extent{{Size: uint64(len(ram)), Source: bytes.NewReader(ram)}})
	if err != nil || len(runs) > maxPlaced || len(runs) == 0 {
		t.Fatalf("%d runs, %v", len(runs), err)
	}
	for i := 1; i < len(runs); i++ {
		if runs[i].RAM < runs[i-1].end() {
			t.Errorf("run %+v after %+v", runs[i], runs[i-1])
		}
	}
}
