package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// payloadText is what the files testdata/payload.* hold: calls from many places to a few targets,
// which the x86 filter of xz turns into repetitions. They were made with the kernel build's options:
//
//	gzip -n -9
//	xz --check=crc32 --x86 --lzma2=dict=64KiB
//	zstd -22 --ultra
//	bzip2 -9
//	lz4 -l -9
//
// and, all but gzip's, have the unpacked size appended.
func payloadText() []byte {
	var b []byte
	for i := range 200 {
		target := (i % 7) * 0x1000
		rel := uint32(target - (len(b) + 5))
		b = append(binary.LittleEndian.AppendUint32(append(b, 0xe8), rel), 0x90, 0x48, 0x89, byte(0xc0+i%8))
	}
	return b
}

func readPayload(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "payload."+name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var formats = []string{"gzip", "xz", "zstd", "bzip2", "LZ4"}

func TestDecompress(t *testing.T) {
	want := payloadText()
	for _, name := range formats {
		t.Run(name, func(t *testing.T) {
			payload := readPayload(t, name)
			got, err := decompressPayload(payload, 1<<20, maxWindow)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes, %v; want %d", len(got), err, len(want))
			}
			file := payload
			if name != "gzip" {
				file = payload[:len(payload)-4]
			}
			if got, err = Decompress(file, len(want)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("Decompress: %d bytes, %v", len(got), err)
			}
			if _, err := Decompress(file, len(want)-1); !errors.Is(err, ErrFormat) {
				t.Errorf("one byte over the limit: %v", err)
			}
			if _, err := Decompress(append(bytes.Clone(file), 1), 1<<20); !errors.Is(err, ErrFormat) {
				t.Errorf("a byte after the stream: %v", err)
			}
			for _, cut := range []int{len(file) - 1, len(file) / 2, 8} {
				if _, err := Decompress(file[:cut], 1<<20); !errors.Is(err, ErrFormat) {
					t.Errorf("cut to %d bytes: %v", cut, err)
				}
			}
			for _, size := range []uint32{0, uint32(len(want)) - 1, uint32(len(want)) + 1, 1<<20 + 1, 1<<32 - 1} {
				lying := bytes.Clone(payload)
				binary.LittleEndian.PutUint32(lying[len(lying)-4:], size)
				if _, err := decompressPayload(lying, 1<<20, maxWindow); !errors.Is(err, ErrFormat) {
					t.Errorf("a payload that says %d bytes: %v", size, err)
				}
			}
		})
	}
}

func TestDecompressUnknown(t *testing.T) {
	for _, data := range []string{"", "\x1f", "\x5d\x00\x00lzma", "\x89LZO\x00", "\x7fELF"} {
		if _, err := Decompress([]byte(data), 100); !errors.Is(err, ErrUnsupported) {
			t.Errorf("Decompress(%q): %v", data, err)
		}
		if _, err := decompressPayload([]byte(data), 100, maxWindow); !errors.Is(err, ErrUnsupported) {
			t.Errorf("decompressPayload(%q): %v", data, err)
		}
	}
}

// lz4Bomb is a legacy frame of which every block unpacks to 8 MiB of zeros.
func lz4Bomb(blocks int) []byte {
	// A literal zero; then a match at distance 1 whose length is spelled out in bytes of 255.
	block := append([]byte{0x1f, 0, 1, 0}, bytes.Repeat([]byte{255}, (lz4Block-1-19-5)/255-1)...)
	unpacked := 1 + 19 + 255*(len(block)-4)
	last := lz4Block - unpacked - 5
	block = append(block, byte(last))
	block = append(block, 0x50, 0, 0, 0, 0, 0) // five literals, as every block must end
	bomb := []byte("\x02\x21\x4c\x18")
	for range blocks {
		bomb = append(binary.LittleEndian.AppendUint32(bomb, uint32(len(block))), block...)
	}
	return bomb
}

// A file that unpacks to far more than the limit is refused with memory in the order of the limit.
func TestDecompressionBomb(t *testing.T) {
	bomb := lz4Bomb(64)
	if whole, err := Decompress(lz4Bomb(1), lz4Block); err != nil || len(whole) < lz4Block/2 {
		t.Fatalf("one block: %d bytes, %v", len(whole), err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Decompress(bomb, 10<<20)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "more than") {
		t.Errorf("bomb: %v", err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 100<<20 {
		t.Errorf("allocated %d bytes for a bomb of %d", used, len(bomb))
	}
}

func FuzzDecompress(f *testing.F) {
	for _, name := range formats {
		f.Add(readPayload(f, name))
	}
	f.Add(lz4Bomb(1))
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 1 << 20
		out, err := decompressPayload(data, limit, 1<<20)
		if err == nil && len(out) > limit {
			t.Errorf("%d bytes", len(out))
		}
		if err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrUnsupported) {
			t.Errorf("untyped error: %v", err)
		}
	})
}
