package vsock

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/virtio/virtiotest"
)

// receiver takes what a connection delivers, as far as it has room.
type receiver struct {
	room int
	got  []byte
}

func (r *receiver) try(pieces [][]byte) (n int) {
	for _, p := range pieces {
		k := min(r.room, len(p))
		r.got, r.room, n = append(r.got, p[:k]...), r.room-k, n+k
	}
	return n
}

// What the guest sends is delivered at once as far as there is room. The rest is read, and what comes meanwhile
// waits behind it.
func TestDeliver(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 16)
	c, h := connect(t, d, p, 1)
	r := &receiver{room: 7}
	c.Deliver(r.try)
	p.reply(h, opData, nil, []byte("hello"))
	if string(r.got) != "hello" || c.in.len() != 0 {
		t.Errorf("%q delivered, %d bytes wait", r.got, c.in.len())
	}
	p.reply(h, opData, nil, []byte(" there"))
	if string(r.got) != "hello t" || c.in.len() != 4 {
		t.Errorf("%q delivered, %d bytes wait", r.got, c.in.len())
	}
	r.room = 1 << 20
	p.reply(h, opData, nil, []byte("fore")) // behind what waits
	b := make([]byte, 6)
	n, err := c.Read(b)
	if string(b[:n]) != "herefo" || err != nil {
		t.Errorf("read %q, %v", b[:n], err)
	}
	p.reply(h, opData, nil, []byte(" and")) // behind what is read, and behind what waits
	n, err = c.Read(b)
	if string(b[:n]) != "re and" || err != nil {
		t.Errorf("read %q, %v", b[:n], err)
	}
	p.reply(h, opData, nil, []byte("!")) // behind what is read
	if string(r.got) != "hello t" {
		t.Errorf("%q delivered before what was read", r.got)
	}
	n, err = c.Read(b)
	if string(b[:n]) != "!" || err != nil {
		t.Errorf("read %q, %v", b[:n], err)
	}
	// Who reads when there is nothing is done with what was read.
	_ = c.SetReadDeadline(time.Now().Add(-time.Second))
	_, _ = c.Read(b)
	_ = c.SetReadDeadline(time.Time{})
	p.reply(h, opData, nil, []byte(", again"))
	p.reply(h, opShutdown, func(h *header) { h.flags = shutSend }, nil)
	if _, err := c.Read(b); string(r.got) != "hello t, again" || !errors.Is(err, io.EOF) {
		t.Errorf("%q delivered, then %v", r.got, err)
	}
}

// The guest is told of the room that delivery makes, and held to what it was told.
func TestDeliverCredit(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 16)
	c, h := connect(t, d, p, 1)
	r := &receiver{room: 2 * BufferSize}
	c.Deliver(r.try)
	part := bytes.Repeat([]byte("x"), 32<<10)
	for range BufferSize / 2 / len(part) {
		p.none()
		p.reply(h, opData, nil, part)
	}
	if u, _ := p.expect(opCreditUpdate); u.fwdCnt != BufferSize/2 {
		t.Errorf("told of %d bytes, not %d", u.fwdCnt, BufferSize/2)
	}
	r.room = 0
	for range BufferSize / len(part) {
		p.reply(h, opData, nil, part)
	}
	p.none()
	p.reply(h, opData, nil, []byte("y"))
	p.expect(opReset)
	if len(r.got) != BufferSize/2 {
		t.Errorf("%d bytes delivered", len(r.got))
	}
}

// A packet of many pieces has one call, for the first of them.
func TestDeliverPieces(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 16)
	c, h := connect(t, d, p, 1)
	calls, r := 0, &receiver{room: 1 << 20}
	c.Deliver(func(pieces [][]byte) int { calls++; return r.try(pieces) })
	data := []byte("one byte a piece, and more pieces than are delivered")
	out := header{srcCID: guestCID, dstCID: hostCID, srcPort: h.dstPort, dstPort: h.srcPort, len: uint32(len(data)), kind: typeStream, op: opData}
	var head [headerSize]byte
	out.encode(&head)
	p.g.Put(p.out, append(head[:], data...))
	buffers := []virtiotest.Buffer{{Addr: p.out, Len: headerSize}}
	for i := range data {
		buffers = append(buffers, virtiotest.Buffer{Addr: p.out + headerSize + uint64(i), Len: 1})
	}
	p.tx.Add(buffers...)
	p.tx.Kick()
	b := make([]byte, 100)
	n, err := c.Read(b)
	if calls != 1 || len(r.got) != maxDelivered || string(r.got)+string(b[:n]) != string(data) || err != nil {
		t.Errorf("%d calls with %q, then %q, %v", calls, r.got, b[:n], err)
	}
}

// BenchmarkDeliver is what it takes from a notification of eight bytes until they come out of a socket to which they are
// passed on: by a goroutine that reads and writes, and delivered. The thread that notifies waits in the kernel afterwards, as
// a vCPU's does.
func BenchmarkDeliver(b *testing.B) {
	for _, name := range []string{"passed on", "delivered"} {
		b.Run(name, func(b *testing.B) {
			d := newDevice(b)
			p := start(b, d, 16)
			c, h := connect(b, d, p, 1)
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err := errors.Join(err, unix.SetNonblock(fds[1], true)); err != nil {
				b.Fatal(err)
			}
			out, in := fds[0], os.NewFile(uintptr(fds[1]), "socket")
			b.Cleanup(func() { _, _ = unix.Close(out), in.Close() })
			raw, err := in.SyscallConn()
			if err != nil {
				b.Fatal(err)
			}
			if name == "delivered" {
				c.Deliver(func(pieces [][]byte) (n int) {
					_ = raw.Control(func(fd uintptr) { n, _ = unix.Writev(int(fd), pieces) })
					return max(n, 0)
				})
			}
			go func() { _, _ = io.Copy(struct{ io.Writer }{in}, struct{ io.Reader }{c}) }()
			data := make([]byte, 8)
			for b.Loop() {
				p.reply(h, opData, nil, data)
				for n, err := 0, error(nil); n != len(data); {
					if n, err = unix.Read(out, data); err != nil && !errors.Is(err, unix.EINTR) {
						b.Fatal(err)
					}
				}
				p.get() // of credit, now and then
			}
		})
	}
}
