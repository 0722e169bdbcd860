package guestmem

import (
	"bytes"
	"fmt"
	"testing"
)

// What a fork uses is listed, and a second fork has it mapped without having used it.
func TestTouchedAndPrefetch(t *testing.T) {
	for _, noScan := range []bool{false, true} {
		t.Run(fmt.Sprintf("noScan=%v", noScan), func(t *testing.T) { testTouched(t, noScan) })
	}
}

func testTouched(t *testing.T, noScan bool) {
	p := pagemap(t)
	p.noScan = noScan
	const size = 4 << 20
	first, err := New(size, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if err := first.WriteAt(bytes.Repeat([]byte("x"), size/2), 0); err != nil {
		t.Fatal(err)
	}
	image, err := imageOf(first, p)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	fork := func() *Memory {
		m, err := image.Fork(Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = m.Close() })
		return m
	}
	a := fork()
	if list, err := a.Touched(p, 10); err != nil || len(list) != 0 {
		t.Errorf("unused: %+v, %v", list, err)
	}
	if err := a.WriteAt([]byte("y"), 8*PageSize); err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if err := a.ReadAt(b[:], 100*PageSize); err != nil {
		t.Fatal(err)
	}
	list, err := a.Touched(p, 10)
	if err != nil {
		t.Fatal(err)
	}
	check := func(list []Touched) {
		t.Helper()
		var written, read bool
		for _, r := range list {
			written = written || r.Written && r.RAM == 8*PageSize && r.Size == PageSize
			read = read || !r.Written && r.RAM <= 100*PageSize && r.RAM+r.Size > 100*PageSize
		}
		if !written || !read {
			t.Errorf("used: %+v", list)
		}
	}
	check(list)
	c := fork()
	c.Prefetch(append([]Touched{{RAM: size, Size: PageSize}, {RAM: 1, Size: 2}, {Size: 1<<64 - PageSize, RAM: PageSize}}, list...))
	again, err := c.Touched(p, 10)
	if err != nil {
		t.Fatal(err)
	}
	check(again)
	if err := c.ReadAt(b[:], 8*PageSize); err != nil || b[0] != 'x' {
		t.Errorf("%q, %v", b, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	c.Prefetch(list) // of closed memory: nothing
	if _, err := c.Touched(p, 1); err == nil {
		t.Error("closed memory is used")
	}
}

func TestShorten(t *testing.T) {
	var list []Touched
	for i := range uint64(20) {
		list = append(list, Touched{RAM: i << 20, Size: (i + 1) * PageSize})
	}
	if got := shorten(list, 5); len(got) != 5 || got[0].RAM != 15<<20 {
		t.Errorf("%+v", got)
	}
}
