package vsock

import (
	"errors"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/virtio/virtiotest"
)

const (
	guestCID   = 7
	rxBuffer   = 4096 + headerSize
	guestAlloc = 64 << 10
)

// peer is the guest's side: its socket layer, packet by packet.
type peer struct {
	testing.TB
	g             *virtiotest.Guest
	rx, tx, event *virtiotest.Ring
	addr          map[uint16]uint64 // of receive buffers, by head
	out           uint64            // where packets are sent from
	events        uint64
}

// start brings up the device's driver with n receive buffers.
func start(tb testing.TB, d *Device, n int) *peer {
	tb.Helper()
	g := virtiotest.New(tb, d)
	rings := g.Start(128, 0)
	p := &peer{TB: tb, g: g, rx: rings[queueRX], tx: rings[queueTX], event: rings[queueEvent], addr: map[uint16]uint64{}}
	p.out, p.events = g.Alloc(1<<17), g.Alloc(64)
	for range 8 {
		p.event.Add(virtiotest.Buffer{Addr: p.events, Len: 4, Writable: true})
	}
	p.fill(n)
	return p
}

func (p *peer) fill(n int) {
	for range n {
		at := p.g.Alloc(rxBuffer)
		p.addr[p.rx.Add(virtiotest.Buffer{Addr: at, Len: rxBuffer, Writable: true})] = at
	}
	p.rx.Kick()
}

// get takes a packet and gives its buffer back. ok is false if there is none.
func (p *peer) get() (h header, data []byte, ok bool) {
	p.Helper()
	head, n, ok := p.rx.Get()
	if !ok {
		return h, nil, false
	}
	return p.take(head, n)
}

func (p *peer) take(head uint16, n uint32) (h header, data []byte, ok bool) {
	p.Helper()
	at := p.addr[head]
	b := p.g.Bytes(at, int(n))
	h.decode((*[headerSize]byte)(b))
	if h.srcCID != hostCID || h.dstCID != guestCID || h.kind != typeStream || int(h.len) != len(b)-headerSize {
		p.Fatalf("bad packet %+v with %d bytes", h, len(b)-headerSize)
	}
	delete(p.addr, head)
	p.addr[p.rx.Add(virtiotest.Buffer{Addr: at, Len: rxBuffer, Writable: true})] = at
	p.rx.Kick()
	return h, b[headerSize:], true
}

// wait takes the next packet.
func (p *peer) wait() (header, []byte) {
	p.Helper()
	h, data, _ := p.take(p.rx.Wait())
	return h, data
}

// expect takes the next packet, which must have the given operation.
func (p *peer) expect(op uint16) (header, []byte) {
	p.Helper()
	h, data := p.wait()
	if h.op != op {
		p.Fatalf("packet %+v, want operation %d", h, op)
	}
	return h, data
}

// none checks that nothing is sent to the guest.
func (p *peer) none() {
	p.Helper()
	if h, _, ok := p.get(); ok {
		p.Fatalf("unexpected packet %+v", h)
	}
}

// send sends a packet and takes its buffer back.
func (p *peer) send(h header, data []byte) {
	p.Helper()
	if h.srcCID == 0 {
		h.srcCID = guestCID
	}
	if h.dstCID == 0 {
		h.dstCID = hostCID
	}
	if h.kind == 0 {
		h.kind = typeStream
	}
	if h.bufAlloc == 0 {
		h.bufAlloc = guestAlloc
	}
	if h.len == 0 {
		h.len = uint32(len(data))
	}
	var b [headerSize]byte
	h.encode(&b)
	p.g.Put(p.out, append(b[:], data...))
	p.tx.Add(virtiotest.Buffer{Addr: p.out, Len: uint32(headerSize + len(data))})
	p.tx.Kick()
	for deadline := time.Now().Add(10 * time.Second); len(p.g.Stopped) == 0; time.Sleep(time.Millisecond) {
		// Another goroutine may be serving the queue.
		if _, _, ok := p.tx.Get(); ok {
			return
		}
		if time.Now().After(deadline) {
			p.Fatal("packet not taken")
		}
	}
}

// reply sends a packet of the connection that h belongs to.
func (p *peer) reply(h header, op uint16, set func(*header), data []byte) {
	p.Helper()
	r := header{srcPort: h.dstPort, dstPort: h.srcPort, op: op}
	if set != nil {
		set(&r)
	}
	p.send(r, data)
}

func newDevice(tb testing.TB) *Device {
	tb.Helper()
	d, err := New(guestCID)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = d.Close() })
	return d
}

// connect has the host dial and the guest accept.
func connect(tb testing.TB, d *Device, p *peer, port uint32) (*Conn, header) {
	tb.Helper()
	type result struct {
		c   *Conn
		err error
	}
	dialed := make(chan result, 1)
	go func() {
		c, err := d.dial(tb.Context(), port)
		dialed <- result{c, err}
	}()
	h, _ := p.expect(opRequest)
	if h.dstPort != port || h.bufAlloc != BufferSize {
		tb.Fatalf("request %+v", h)
	}
	p.reply(h, opResponse, nil, nil)
	r := <-dialed
	if r.err != nil {
		tb.Fatal(r.err)
	}
	return r.c, h
}

// isKind tells whether an error is one of some.
func isKind(err error, kinds ...error) bool {
	for _, k := range kinds {
		if errors.Is(err, k) {
			return true
		}
	}
	return false
}
