package vsock

import (
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/virtio/queue"
	"github.com/aethervm/aether/internal/virtio/virtiotest"
)

// FuzzPackets plays a guest that sends packets of any content, to a host that dials, listens, reads,
// writes and closes at points that the input chooses.
func FuzzPackets(f *testing.F) {
	mem, err := guestmem.New(4<<20, guestmem.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = mem.Close() })
	step := func(action, ports, op, n byte, words ...uint32) []byte {
		b := []byte{action, ports, op, n}
		for i := range 3 {
			var w uint32
			if i < len(words) {
				w = words[i]
			}
			b = binary.LittleEndian.AppendUint32(b, w)
		}
		return b
	}
	join := func(steps ...[]byte) (b []byte) {
		for _, s := range steps {
			b = append(b, s...)
		}
		return b
	}
	f.Add(join(step(1, 0, 0, 0), step(0, 0, opResponse, 0, 0, 1<<16), step(0, 0, opData, 9), step(2, 0, 0, 0), step(3, 0, 0, 0), step(0, 0, opShutdown, 0, 3)))
	f.Add(join(step(1, 0, 0, 5), step(0, 0, opResponse, 0, 0, 1<<16), step(0, 0, opData, 9), step(0, 0, opData, 9), step(2, 0, 0, 30), step(0, 0, opData, 9)))
	f.Add(join(step(0, 5, opRequest, 0, 0, 4), step(4, 0, 0, 0), step(3, 0, 0, 200), step(0, 5, opCreditUpdate, 0, 0, 1<<31, 1<<30), step(5, 0, 0, 0), step(0, 5, opReset, 0)))
	f.Add(join(step(0, 15, opData, 3), step(6, 0, 0, 0), step(0, 0x40, opData, 3), step(7, 0, 0, 3), step(0, 0, 99, 0)))
	const stepSize = 16
	f.Fuzz(func(t *testing.T, seq []byte) {
		d, err := New(guestCID)
		if err != nil {
			t.Fatal(err)
		}
		var calls sync.WaitGroup
		defer calls.Wait()
		defer d.Close()
		g := virtiotest.Attach(t, d, mem)
		rings := g.Start(32, 0)
		rx, tx := rings[queueRX], rings[queueTX]
		out, in := g.Alloc(4096), g.Alloc(4096)
		l, err := d.Listen(80)
		if err != nil {
			t.Fatal(err)
		}
		var conns []*Conn
		last := func() *Conn {
			if len(conns) == 0 {
				return nil
			}
			return conns[len(conns)-1]
		}
		for range min(len(seq)/stepSize, 200) {
			s := seq[:stepSize]
			seq = seq[stepSize:]
			word := func(i int) uint32 { return binary.LittleEndian.Uint32(s[4+4*i:]) }
			switch c := last(); s[0] % 8 {
			case 0: // a packet
				h := header{
					srcCID: guestCID, dstCID: hostCID, kind: typeStream, op: uint16(s[2]), flags: word(0),
					srcPort: uint32(s[1] >> 1 & 3), dstPort: firstPort + uint32(s[1]>>3&3),
					bufAlloc: word(1), fwdCnt: word(2), len: uint32(s[3]),
				}
				if s[1]&1 != 0 {
					h.dstPort = 80
				}
				if s[1]&0x40 != 0 { // lies about its length
					h.len += word(0)
				}
				if s[1]&0x80 != 0 {
					h.kind, h.dstCID = uint16(word(0)), uint64(word(1))
				}
				var b [headerSize]byte
				h.encode(&b)
				g.Put(out, append(b[:], make([]byte, s[3])...))
				if tx.Free() > 0 {
					tx.Add(virtiotest.Buffer{Addr: out, Len: headerSize + uint32(s[3])})
				}
				tx.Kick()
			case 1: // the host dials
				d.mu.Lock()
				c, err := d.begin(uint32(s[1] & 3))
				d.mu.Unlock()
				if err != nil {
					t.Fatal(err)
				}
				d.notify()
				if room := int(s[3]); room > 0 {
					c.Deliver((&receiver{room: room}).try)
				}
				conns = append(conns, c)
			case 2: // it reads
				if c != nil {
					_ = c.SetReadDeadline(time.Now().Add(-1))
					_, _ = c.Read(make([]byte, s[3]))
					d.mu.Lock()
					if n := c.in.len(); n > BufferSize {
						t.Errorf("%d bytes buffered", n)
					}
					d.mu.Unlock()
				}
			case 3: // it writes
				if c != nil {
					calls.Go(func() { _, _ = c.Write(make([]byte, int(s[3])*64)) })
				}
			case 4: // it accepts
				d.mu.Lock()
				n := len(l.(*listener).waiting)
				d.mu.Unlock()
				if n > 0 {
					c, err := l.Accept()
					if err != nil {
						t.Fatal(err)
					}
					conns = append(conns, c.(*Conn))
				}
			case 5: // it closes
				if c != nil {
					_ = c.Close()
				}
			case 6:
				if c != nil {
					_ = c.CloseWrite()
				}
			case 7: // the guest gives receive buffers
				for range s[3] % 8 {
					if rx.Free() > 0 {
						rx.Add(virtiotest.Buffer{Addr: in, Len: uint32(s[1]) + 1 + headerSize*uint32(s[2]&1), Writable: true})
					}
				}
				rx.Kick()
			}
			for _, r := range rings {
				r.Get()
			}
			select {
			case err := <-g.Stopped:
				if !errors.Is(err, queue.ErrMalformed) {
					t.Fatal(err)
				}
				return
			default:
			}
			d.mu.Lock()
			if len(d.resets) > maxResets || len(d.conns) > maxConns {
				t.Errorf("%d resets, %d connections", len(d.resets), len(d.conns))
			}
			d.mu.Unlock()
		}
	})
}
