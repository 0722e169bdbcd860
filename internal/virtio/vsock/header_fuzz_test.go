package vsock

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/virtio/queue"
	"github.com/aethervm/aether/internal/virtio/virtiotest"
)

// FuzzHeader sends packets whose bytes are all the input's, cut into buffers anywhere, to a host that
// listens on a port and has a connection. What comes back is always a whole and honest packet.
func FuzzHeader(f *testing.F) {
	mem, err := guestmem.New(4<<20, guestmem.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = mem.Close() })
	encode := func(h header, payload string) []byte {
		var b [headerSize]byte
		h.encode(&b)
		return append(b[:], payload...)
	}
	for op := range uint16(9) {
		for _, port := range []uint32{80, 81, firstPort} {
			f.Add(encode(header{
				srcCID: guestCID, dstCID: hostCID, srcPort: 9, dstPort: port, kind: typeStream, op: op,
				len: 4, flags: 3, bufAlloc: 1 << 16, fwdCnt: uint32(op),
			}, "data"), byte(op))
		}
	}
	f.Add(encode(header{srcCID: guestCID, dstCID: hostCID, kind: typeStream, op: opData, len: 1<<32 - 1}, "short"), byte(44))
	f.Add(encode(header{srcCID: 1 << 63, dstCID: 1<<64 - 1, kind: 2, op: 0xffff}, ""), byte(0))
	f.Add([]byte("less than a header"), byte(3))
	f.Fuzz(func(t *testing.T, packet []byte, cut byte) {
		if len(packet) == 0 {
			return
		}
		var h header
		if len(packet) >= headerSize {
			var again [headerSize]byte
			h.decode((*[headerSize]byte)(packet))
			h.encode(&again)
			if string(again[:]) != string(packet[:headerSize]) {
				t.Fatalf("% x became % x", packet[:headerSize], again)
			}
		}
		d, err := New(guestCID)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		g := virtiotest.Attach(t, d, mem)
		rings := g.Start(32, 0)
		rx, tx := rings[queueRX], rings[queueTX]
		if _, err := d.Listen(80); err != nil {
			t.Fatal(err)
		}
		d.mu.Lock()
		_, err = d.begin(9) // from firstPort
		d.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		in, out := g.Alloc(8*256), g.Alloc(1<<16)
		addr := map[uint16]uint64{}
		for i := range uint64(8) {
			addr[rx.Add(virtiotest.Buffer{Addr: in + 256*i, Len: 256, Writable: true})] = in + 256*i
		}
		rx.Kick()
		packet = packet[:min(len(packet), 1<<16)]
		g.Put(out, packet)
		for range 2 {
			var buffers []virtiotest.Buffer
			first := min(int(cut), len(packet))
			for _, b := range []virtiotest.Buffer{{Addr: out, Len: uint32(first)}, {Addr: out + uint64(first), Len: uint32(len(packet) - first)}} {
				if b.Len > 0 {
					buffers = append(buffers, b)
				}
			}
			tx.Add(buffers...)
			tx.Kick()
			tx.Get()
		}
		select {
		case err := <-g.Stopped:
			if !errors.Is(err, queue.ErrMalformed) || len(packet) >= headerSize && uint64(h.len) <= uint64(len(packet)-headerSize) {
				t.Fatal(err)
			}
			return
		default:
		}
		for {
			head, n, ok := rx.Get()
			if !ok {
				break
			}
			b := g.Bytes(addr[head], int(n))
			var reply header
			reply.decode((*[headerSize]byte)(b))
			if reply.srcCID != hostCID || reply.dstCID != guestCID || int(reply.len) != len(b)-headerSize {
				t.Fatalf("reply %+v of %d bytes", reply, n)
			}
			if at := binary.LittleEndian.Uint16(b[30:]); at < opRequest || at > opCreditRequest {
				t.Fatalf("reply with operation %d", at)
			}
		}
	})
}
