package blk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/virtio/queue"
	"github.com/aethervm/aether/internal/virtio/virtiotest"
)

const imageSize = 1<<20 + 100 // the last sector is cut off

func newImage(tb testing.TB) (*os.File, []byte) {
	tb.Helper()
	content := make([]byte, imageSize)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(content)
	path := filepath.Join(tb.TempDir(), "image")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		tb.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = f.Close() })
	return f, content
}

func newDisk(tb testing.TB) (*Device, []byte) {
	tb.Helper()
	f, content := newImage(tb)
	d, err := New(Config{Image: f, ID: "root-image"})
	if err != nil {
		tb.Fatal(err)
	}
	return d, content
}

func header(kind uint32, sector uint64) []byte {
	b := binary.LittleEndian.AppendUint32(nil, kind)
	b = binary.LittleEndian.AppendUint32(b, 0)
	return binary.LittleEndian.AppendUint64(b, sector)
}

func TestRead(t *testing.T) {
	d, content := newDisk(t)
	ring := virtiotest.New(t, d).Start(256, 0)[0]
	for _, tc := range []struct {
		sector  uint64
		sectors int
	}{{0, 1}, {1, 8}, {0, 2048}, {2047, 1}, {2048, 0}} {
		got := ring.Call(header(typeIn, tc.sector), tc.sectors*512+1)
		want := append(bytes.Clone(content[tc.sector*512:][:tc.sectors*512]), statusOK)
		if !bytes.Equal(got, want) {
			t.Errorf("%d sectors at %d: %d bytes, status %d", tc.sectors, tc.sector, len(got), got[len(got)-1])
		}
	}
}

// Many small pieces, more than one system call's worth of them, through an indirect table.
func TestReadScattered(t *testing.T) {
	d, content := newDisk(t)
	g := virtiotest.New(t, d)
	ring := g.Start(8, 0)[0]
	const pieces = 600
	table, head, data := g.Alloc(16*(pieces+2)), g.Alloc(16), g.Alloc(pieces*1024+1)
	g.Put(head, header(typeIn, 3))
	g.Put(table, virtiotest.Descriptor(head, 16, 1, 1))
	for i := range uint64(pieces) {
		// In reverse order and with gaps.
		g.Put(table+16*(i+1), virtiotest.Descriptor(data+1024*(pieces-1-i), 512, 1|2, uint16(i+2)))
	}
	g.Put(table+16*(pieces+1), virtiotest.Descriptor(data+1024*pieces, 1, 2, 0))
	ring.SetDesc(0, table, 16*(pieces+2), 4, 0)
	ring.Offer(0)
	g.Notify(0)
	for i := range uint64(pieces) {
		if got := g.Bytes(data+1024*(pieces-1-i), 512); !bytes.Equal(got, content[512*(3+i):][:512]) {
			t.Fatalf("piece %d differs", i)
		}
		if got := g.Bytes(data+1024*i+512, 512); !bytes.Equal(got, make([]byte, 512)) {
			t.Fatalf("gap after piece %d was written", i)
		}
	}
}

func TestRequestsThatFail(t *testing.T) {
	d, _ := newDisk(t)
	g := virtiotest.New(t, d)
	ring := g.Start(256, 0)[0]
	for _, tc := range []struct {
		name   string
		kind   uint32
		sector uint64
		data   int
		want   byte
	}{
		{"beyond the end", typeIn, 2048, 512, statusIOError},
		{"across the end", typeIn, 2047, 1024, statusIOError},
		{"far beyond", typeIn, 1<<64 - 1, 512, statusIOError},
		{"offset overflows", typeIn, 1 << 55, 512, statusIOError},
		{"half a sector", typeIn, 0, 256, statusIOError},
		{"discard", 11, 0, 0, statusUnsupported},
		{"write zeroes", 13, 0, 0, statusUnsupported},
		{"unknown", 99, 0, 512, statusUnsupported},
		{"flush", typeFlush, 0, 0, statusOK},
	} {
		at, in := g.Alloc(16), g.Alloc(tc.data+1)
		g.Put(at, header(tc.kind, tc.sector))
		g.Put(in, bytes.Repeat([]byte{0xee}, tc.data+1))
		ring.Add(virtiotest.Buffer{Addr: at, Len: 16}, virtiotest.Buffer{Addr: in, Len: uint32(tc.data + 1), Writable: true})
		ring.Kick()
		ring.Wait()
		if got := g.Bytes(in+uint64(tc.data), 1)[0]; got != tc.want {
			t.Errorf("%s: status %d, want %d", tc.name, got, tc.want)
		}
		if !bytes.Equal(g.Bytes(in, tc.data), bytes.Repeat([]byte{0xee}, tc.data)) {
			t.Errorf("%s: data written", tc.name)
		}
	}
	if got := ring.Call(append(header(typeOut, 0), make([]byte, 512)...), 1); !bytes.Equal(got, []byte{statusIOError}) {
		t.Errorf("write: %v", got)
	}
}

func TestGetID(t *testing.T) {
	d, _ := newDisk(t)
	ring := virtiotest.New(t, d).Start(256, 0)[0]
	want := append([]byte("root-image"), make([]byte, 11)...)
	if got := ring.Call(header(typeGetID, 0), 21); !bytes.Equal(got, want) {
		t.Errorf("ID %q", got)
	}
	if got := ring.Call(header(typeGetID, 0), 5); string(got) != "root\x00" {
		t.Errorf("ID in 4 bytes: %q", got)
	}
}

func TestMalformedRequests(t *testing.T) {
	for name, buffers := range map[string][]virtiotest.Buffer{
		"no header":    {{Addr: 0x8000, Len: 513, Writable: true}},
		"short header": {{Addr: 0x8000, Len: 15}, {Addr: 0x9000, Len: 513, Writable: true}},
		"no status":    {{Addr: 0x8000, Len: 16}},
	} {
		d, _ := newDisk(t)
		g := virtiotest.New(t, d)
		ring := g.Start(256, 0)[0]
		ring.Add(buffers...)
		ring.Kick()
		if err := <-g.Stopped; !errors.Is(err, queue.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConfigSpace(t *testing.T) {
	d, _ := newDisk(t)
	g := virtiotest.New(t, d)
	if n := binary.LittleEndian.Uint64(g.Config(0, 8)); n != imageSize/512 {
		t.Errorf("capacity %d", n)
	}
	if n := binary.LittleEndian.Uint32(g.Config(12, 4)); n != 254 {
		t.Errorf("seg_max %d", n)
	}
	if f := g.DeviceFeatures(); f&featureReadOnly == 0 {
		t.Errorf("features %#x", f)
	}
}

func TestTruncatedImage(t *testing.T) {
	f, _ := newImage(t)
	d, err := New(Config{Image: f})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(f.Name(), 4096); err != nil {
		t.Fatal(err)
	}
	g := virtiotest.New(t, d)
	ring := g.Start(256, 0)[0]
	at, in := g.Alloc(16), g.Alloc(1025)
	g.Put(at, header(typeIn, 7))
	ring.Add(virtiotest.Buffer{Addr: at, Len: 16}, virtiotest.Buffer{Addr: in, Len: 1025, Writable: true})
	ring.Kick()
	ring.Wait()
	if got := g.Bytes(in+1024, 1)[0]; got != statusIOError {
		t.Errorf("status %d", got)
	}
}

func TestNewRefuses(t *testing.T) {
	f, _ := newImage(t)
	if _, err := New(Config{Image: f, ID: "a serial number of too many bytes"}); err == nil {
		t.Error("long ID accepted")
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := New(Config{Image: null}); err == nil {
		t.Error("device node accepted")
	}
}

func TestState(t *testing.T) {
	d, _ := newDisk(t)
	if err := d.Restore(d.State()); err != nil {
		t.Error(err)
	}
	s := d.State()
	s.Sectors++
	if err := d.Restore(s); err == nil {
		t.Error("state of another disk accepted")
	}
}

// One disk image under several guests at once.
func TestSharedImage(t *testing.T) {
	f, content := newImage(t)
	var wg sync.WaitGroup
	for range 4 {
		d, err := New(Config{Image: f})
		if err != nil {
			t.Fatal(err)
		}
		ring := virtiotest.New(t, d).Start(256, 0)[0]
		wg.Go(func() {
			for i := range 200 {
				s := i * 7 % 2000
				if got := ring.Call(header(typeIn, uint64(s)), 16*512+1); !bytes.Equal(got[:16*512], content[s*512:][:16*512]) {
					t.Errorf("sector %d differs", s)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzRequest(f *testing.F) {
	d, _ := newDisk(f)
	mem, err := guestmem.New(4<<20, guestmem.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = mem.Close() })
	for _, kind := range []uint32{typeIn, typeOut, typeFlush, typeGetID, 11, 13} {
		f.Add(header(kind, 1), uint16(1025), uint16(16))
	}
	f.Add(header(typeIn, 1<<63), uint16(513), uint16(3))
	f.Fuzz(func(t *testing.T, out []byte, in, cut uint16) {
		g := virtiotest.Attach(t, d, mem)
		ring := g.Start(8, 0)[0]
		var buffers []virtiotest.Buffer
		at := g.Alloc(1 << 17)
		out = out[:min(len(out), 1<<16)]
		g.Put(at, out)
		for _, part := range []int{min(int(cut), len(out)), len(out) - min(int(cut), len(out))} {
			if part > 0 {
				buffers = append(buffers, virtiotest.Buffer{Addr: at, Len: uint32(part)})
				at += uint64(part)
			}
		}
		// The data may overlap what is being read.
		for _, part := range []uint16{in / 2, in - in/2} {
			if part > 0 {
				buffers = append(buffers, virtiotest.Buffer{Addr: uint64(cut), Len: uint32(part), Writable: true})
			}
		}
		if len(buffers) == 0 {
			return
		}
		ring.Add(buffers...)
		g.Notify(0)
		select {
		case err := <-g.Stopped:
			if !errors.Is(err, queue.ErrMalformed) {
				t.Fatal(err)
			}
		default:
		}
	})
}

func BenchmarkRead(b *testing.B) {
	for name, size := range map[string]int{"4KiB": 4 << 10, "128KiB": 128 << 10, "1MiB": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			d, _ := newDisk(b)
			g := virtiotest.New(b, d)
			ring := g.Start(256, 0)[0]
			ring.NoInterrupt()
			at, in := g.Alloc(16), g.Alloc(size+1)
			g.Put(at, header(typeIn, 0))
			b.SetBytes(int64(size))
			for b.Loop() {
				ring.Add(virtiotest.Buffer{Addr: at, Len: 16}, virtiotest.Buffer{Addr: in, Len: uint32(size + 1), Writable: true})
				ring.Kick()
				if _, n, ok := ring.Get(); !ok || int(n) != size+1 {
					b.Fatal("not read")
				}
			}
		})
	}
}
