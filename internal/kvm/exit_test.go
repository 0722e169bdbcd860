package kvm

import (
	"encoding/binary"
	"testing"
)

func TestDecodeExitIO(t *testing.T) {
	shared := make([]byte, 8192)
	page := &runPage{exitReason: uint32(ExitIO)}
	put := func(size byte, count uint32, offset uint64) {
		page.exit[0], page.exit[1] = exitIOOut, size
		binary.LittleEndian.PutUint16(page.exit[2:], 0x3f8)
		binary.LittleEndian.PutUint32(page.exit[4:], count)
		binary.LittleEndian.PutUint64(page.exit[8:], offset)
	}
	for _, tt := range []struct {
		size   byte
		count  uint32
		offset uint64
		want   int
	}{
		{1, 1, 4096, 1},
		{4, 16, 4096, 64},
		{4, 1024, 4096, 4096},
		{4, 1025, 4096, 0},             // past the end
		{1, 1, 1 << 40, 0},             // far past the end
		{255, 1<<32 - 1, 1<<64 - 1, 0}, // sums that overflow
	} {
		put(tt.size, tt.count, tt.offset)
		e := decodeExit(page, shared)
		if len(e.IO.Data) != tt.want || e.IO.Port != 0x3f8 || !e.IO.Out {
			t.Errorf("%+v gave %d bytes, %+v", tt, len(e.IO.Data), e.IO)
		}
	}
}

func FuzzDecodeExit(f *testing.F) {
	for _, reason := range []ExitReason{ExitIO, ExitMMIO, ExitHLT, ExitFailEntry, ExitInternalError} {
		f.Add(uint32(reason), []byte{1, 1, 0xf8, 3, 1, 0, 0, 0, 0, 16})
	}
	shared := make([]byte, 8192)
	f.Fuzz(func(t *testing.T, reason uint32, union []byte) {
		page := &runPage{exitReason: reason}
		copy(page.exit[:], union)
		e := decodeExit(page, shared)
		if e.MMIO.Len > 8 || len(e.IO.Data) > len(shared) || e.String() == "" {
			t.Fatalf("%+v", e)
		}
	})
}
