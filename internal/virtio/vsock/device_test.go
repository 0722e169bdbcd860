package vsock

import (
	"encoding/binary"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/virtio/queue"
	"github.com/aethervm/aether/internal/virtio/virtiotest"
)

// The guest has promised room for 10 bytes at first.
func TestHostObeysCredit(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 16)
	c, h := connect(t, d, p, 1)
	grant := func(alloc, fwd uint32) {
		p.reply(h, opCreditUpdate, func(r *header) { r.bufAlloc, r.fwdCnt = alloc, fwd }, nil)
	}
	grant(10, 0)
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte("0123456789abcdefghij!"))
		wrote <- err
	}()
	if _, data := p.expect(opData); string(data) != "0123456789" {
		t.Errorf("first %q", data)
	}
	p.expect(opCreditRequest)
	grant(10, 0) // an answer that does not help is not asked for again
	p.none()
	grant(5, 0) // nor is one that takes back
	p.none()
	grant(10, 10)
	if _, data := p.expect(opData); string(data) != "abcdefghij" {
		t.Errorf("second %q", data)
	}
	p.expect(opCreditRequest)
	select {
	case err := <-wrote:
		t.Errorf("Write returned: %v", err)
	default:
	}
	grant(100, 20)
	p.expect(opData)
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

func TestGuestIsHeldToCredit(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 16)
	c, h := connect(t, d, p, 1)
	chunk := make([]byte, 64<<10)
	for range BufferSize / len(chunk) {
		p.reply(h, opData, nil, chunk)
	}
	p.none()
	b := make([]byte, BufferSize/2)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	if u, _ := p.expect(opCreditUpdate); u.fwdCnt != BufferSize/2 || u.bufAlloc != BufferSize {
		t.Errorf("update %+v", u)
	}
	p.reply(h, opData, nil, chunk)
	p.reply(h, opData, nil, chunk)
	p.reply(h, opData, nil, []byte{1}) // one too many
	p.expect(opReset)
	n, err := io.Copy(io.Discard, c)
	if n != BufferSize || !isKind(err, syscall.ECONNRESET) {
		t.Errorf("read %d, %v", n, err)
	}
	p.reply(h, opCreditRequest, nil, nil) // unknown by now
	p.expect(opReset)
}

func TestCreditRequestIsAnswered(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 16)
	_, h := connect(t, d, p, 1)
	p.reply(h, opCreditRequest, nil, nil)
	if u, _ := p.expect(opCreditUpdate); u.bufAlloc != BufferSize {
		t.Errorf("update %+v", u)
	}
}

// One connection without credit and one whose application does not read do not delay a third.
func TestNoHeadOfLineBlocking(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 16)
	stuck, hs := connect(t, d, p, 1)
	_, hu := connect(t, d, p, 2) // never read
	free, hf := connect(t, d, p, 3)
	p.reply(hs, opCreditUpdate, func(r *header) { r.bufAlloc = 1 }, nil)
	go func() { _, _ = stuck.Write([]byte("stuck")) }()
	p.expect(opData)
	p.expect(opCreditRequest)
	for range 4 {
		p.reply(hu, opData, nil, make([]byte, 64<<10))
	}
	for range 100 {
		if _, err := free.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		p.expect(opData)
		p.reply(hf, opData, nil, []byte("pong"))
		b := make([]byte, 4)
		if _, err := io.ReadFull(free, b); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUnknownAndInvalidPackets(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 16)
	for _, tc := range []struct {
		name string
		h    header
		want uint16 // 0: silence
	}{
		{"data for nobody", header{srcPort: 1, dstPort: 2, op: opData}, opReset},
		{"request without listener", header{srcPort: 1, dstPort: 2, op: opRequest}, opReset},
		{"reset for nobody", header{srcPort: 1, dstPort: 2, op: opReset}, 0},
		{"unknown operation", header{srcPort: 1, dstPort: 2, op: 77}, opReset},
		{"wrong source", header{srcCID: 8, srcPort: 1, dstPort: 2, op: opData}, 0},
		{"wrong destination", header{dstCID: 3, srcPort: 1, dstPort: 2, op: opData}, 0},
		{"reserved bits of the CID", header{srcCID: 1<<32 | guestCID, srcPort: 1, dstPort: 2, op: opData}, 0},
	} {
		p.send(tc.h, nil)
		if tc.want == 0 {
			p.none()
		} else if h, _ := p.expect(tc.want); h.srcPort != 2 || h.dstPort != 1 {
			t.Errorf("%s: %+v", tc.name, h)
		}
	}
	c, h := connect(t, d, p, 1)
	p.reply(h, 77, nil, nil)
	p.expect(opReset)
	if _, err := c.Read(make([]byte, 1)); !isKind(err, syscall.ECONNRESET) {
		t.Errorf("read after nonsense: %v", err)
	}
}

func TestUnknownTypeIsReset(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 4)
	p.send(header{srcPort: 1, dstPort: 2, op: opRequest, kind: 2}, nil)
	head, n := p.rx.Wait()
	var h header
	h.decode((*[headerSize]byte)(p.g.Bytes(p.addr[head], int(n))))
	if h.op != opReset || h.kind != 2 {
		t.Errorf("reply %+v", h)
	}
}

func TestMalformedPacketsStop(t *testing.T) {
	for name, send := range map[string]func(*peer){
		"length": func(p *peer) { p.send(header{op: opData, len: 5}, []byte("1234")) },
		"huge":   func(p *peer) { p.send(header{op: opData, len: 1<<32 - 1}, nil) },
		"header": func(p *peer) {
			p.tx.Add(virtiotest.Buffer{Addr: p.out, Len: headerSize - 1})
			p.tx.Kick()
		},
		"receive buffer": func(p *peer) {
			p.rx.Add(virtiotest.Buffer{Addr: p.out, Len: headerSize, Writable: true})
			p.send(header{op: opData}, nil)
		},
	} {
		d := newDevice(t)
		p := start(t, d, 0)
		send(p)
		if err := <-p.g.Stopped; !errors.Is(err, queue.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Replies wait while the guest gives no buffers; then its packets wait, and nothing is lost.
func TestRepliesAreBounded(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 0)
	var b [headerSize]byte
	(&header{srcCID: guestCID, dstCID: hostCID, srcPort: 1, dstPort: 2, kind: typeStream, op: opData}).encode(&b)
	p.g.Put(p.out, b[:])
	const packets = 2 * maxResets
	sent := 0
	for range packets {
		if p.tx.Free() == 0 {
			break
		}
		p.tx.Add(virtiotest.Buffer{Addr: p.out, Len: headerSize})
		sent++
		p.tx.Kick()
		for {
			if _, _, ok := p.tx.Get(); !ok {
				break
			}
		}
	}
	if d.mu.Lock(); len(d.resets) != maxResets {
		t.Errorf("%d replies held", len(d.resets))
	}
	d.mu.Unlock()
	if p.tx.Free() != 0 {
		t.Errorf("%d more packets could be sent", p.tx.Free())
	}
	p.fill(4)
	for range sent {
		p.expect(opReset)
	}
	p.none()
}

func TestReservedCIDs(t *testing.T) {
	for _, cid := range []uint64{0, 1, 2, 0xffffffff, 1 << 32, 1<<64 - 1} {
		if _, err := New(cid); err == nil {
			t.Errorf("CID %d accepted", cid)
		}
	}
	d := newDevice(t)
	if got := binary.LittleEndian.Uint64(start(t, d, 0).g.Config(0, 8)); got != guestCID {
		t.Errorf("CID %d", got)
	}
}

// A driver may take any queue away at any time.
func TestWithdrawnQueues(t *testing.T) {
	for q := range uint32(3) {
		d := newDevice(t)
		p := start(t, d, 16)
		c, _ := connect(t, d, p, 1)
		d.mu.Lock()
		d.event = eventWanted
		d.mu.Unlock()
		p.g.Write32(0x30, q)
		p.g.Write32(0x44, 0)
		for i := range 3 {
			p.g.Notify(i)
		}
		_ = c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		_, _ = c.Write([]byte("x"))
		_ = c.Close()
		if s := p.g.Status(); s != virtiotest.StatusRunning {
			t.Errorf("queue %d: status %#x", q, s)
		}
	}
}
