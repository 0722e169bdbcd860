package smaps

import (
	"strings"
	"testing"
)

func TestFindRAM(t *testing.T) {
	const text = `7f0000000000-7f0000400000 r--s 00000000 00:01 7 /memfd:x (deleted)
Pss:                 100 kB
7f0000400000-7f0000800000 rw-s 00000000 00:01 8 /memfd:ram (deleted)
Size:               4096 kB
Pss:                  10 kB
Pss_Dirty:             9 kB
7f0000800000-7f0000900000 rw-s 00400000 00:01 8 /memfd:ram (deleted)
Pss:                   5 kB
7f0000900000-7f0000c00000 rw-p 00000000 00:00 0
Pss:                   3 kB
7f0000c00000-7f0001000000 ---p 00000000 00:00 0
Pss:                   7 kB
7f0001000000-7f0001200000 rw-p 00000000 00:00 0
Pss:                   2 kB
VmFlags: rd wr
`
	for size, want := range map[int64]int64{
		4 << 20: 10 << 10, // one
		8 << 20: 18 << 10, // three of two kinds
		3 << 20: 3 << 10,  // the last of a row
		2 << 20: 2 << 10,  // after a gap, the last of all
		1 << 20: 5 << 10,  // in the middle
		9 << 20: -1,       // more than adjoins
		6 << 20: -1,       // no sum of them
	} {
		pss, known, err := FindRAM(strings.NewReader(text), size, 1)
		if err != nil || known != (want >= 0) || known && pss != want {
			t.Errorf("%d bytes: %d, %v, %v; want %d", size, pss, known, err, want)
		}
	}
	const two = "1000-3000 rw-p 0 00:01 1\nPss: 3 kB\n3000-4000 rw-p 0 00:01 1\nPss: 1 kB\n4000-6000 rw-p 0 00:01 1\nPss: 2 kB\n" +
		"9000-a000 r--p 0 00:01 1\nPss: 9 kB\nb000-e000 rw-p 0 00:01 1\nPss: 4 kB\n"
	for guests, want := range map[int]int64{1: 4 << 10, 2: 8 << 10, 3: 8 << 10} {
		if pss, known, err := FindRAM(strings.NewReader(two), 0x3000, guests); err != nil || !known || pss != want {
			t.Errorf("%d guests: %d, %v, %v", guests, pss, known, err)
		}
	}
	if _, _, err := FindRAM(strings.NewReader("Pss: many kB\n"), 1, 1); err == nil {
		t.Error("nonsense was read")
	}
}

func FuzzFindRAM(f *testing.F) {
	f.Add("7f0000400000-7f0000800000 rw-s 00000000 00:01 8 /x\nPss: 1 kB\n", int64(4<<20))
	f.Add("0-1 rw-p 0 0 0\nPss: -1 kB\n1-1 rw-p 0 0 0", int64(1))
	f.Fuzz(func(t *testing.T, text string, size int64) {
		_, _, _ = FindRAM(strings.NewReader(text), size, 2)
	})
}
