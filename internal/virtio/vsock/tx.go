package vsock

import (
	"fmt"
	"io"
	"syscall"

	"github.com/aethervm/aether/internal/virtio/queue"
)

// errLength is about a packet that is longer than what it came in.
const errLength = queue.Malformed("socket packet longer than its buffers")

// canServeTX tells whether there may be packets of the guest, and room for the replies to them.
func (d *Device) canServeTX() bool { return d.txPending && len(d.resets) < maxResets }

// serveTX takes packets from the guest.
func (d *Device) serveTX() (interrupt bool, err error) {
	q := d.link.Queues[queueTX]
	if q == nil {
		d.txPending = false
		return false, nil
	}
	// One packet causes at most one reply outside of a connection.
	room := min(batch, maxResets-len(d.resets))
	interrupt, d.txPending, err = q.Drain(room, func(c *queue.Chain) (uint32, error) { return 0, d.receive(c) })
	return interrupt, err
}

// receive handles one packet. What it says is judged here; only what breaks the frame is an error.
func (d *Device) receive(chain *queue.Chain) error {
	var (
		b [headerSize]byte
		h header
	)
	if err := chain.Readable.Read(b[:]); err != nil {
		return fmt.Errorf("socket packet: %w", err)
	}
	h.decode(&b)
	if uint64(h.len) > chain.Readable.Len() {
		return fmt.Errorf("%w: %d of %d bytes", errLength, h.len, chain.Readable.Len())
	}
	if h.srcCID != d.cid || h.dstCID != hostCID {
		return nil // a guest's own affair; after a restore it may still use its old CID
	}
	k := key{host: h.dstPort, guest: h.srcPort}
	c := d.conns[k]
	switch {
	case c != nil && h.kind == typeStream:
		return d.receiveFor(c, &h, &chain.Readable)
	case h.op == opReset:
	case c == nil && h.kind == typeStream && h.op == opRequest && d.offer(k, &h):
	default:
		d.resets = append(d.resets, reset{key: k, kind: h.kind})
	}
	return nil
}

// receiveFor handles a packet of a connection.
func (d *Device) receiveFor(c *Conn, h *header, payload *queue.Buffer) error {
	c.peerAlloc, c.peerForwarded = h.bufAlloc, h.fwdCnt
	if c.credit() > 0 {
		// Not on every packet: a guest whose application does not read would be asked again and again.
		c.askedCredit = false
	}
	switch {
	case h.op == opReset:
		err := error(syscall.ECONNRESET)
		switch {
		case c.state == connecting:
			err = syscall.ECONNREFUSED
		case c.peerShut&shutSend != 0:
			err = io.EOF
		}
		d.remove(c, err)
	case c.state == dying: // it gets a reset already
	case h.op == opResponse && c.state == connecting && !c.wants.request:
		c.state = established
		c.cond.Broadcast()
	case c.state == connecting:
		d.abort(c, syscall.ECONNREFUSED)
	case h.op == opShutdown:
		c.peerShut |= h.flags & shutBoth
		c.cond.Broadcast()
		if c.peerShut == shutBoth {
			// The guest has closed the connection and waits for this to forget it.
			d.abort(c, io.EOF)
		}
	case h.op == opData && c.peerShut&shutSend == 0:
		return d.receiveData(c, int(h.len), payload)
	case h.op == opCreditUpdate:
	case h.op == opCreditRequest:
		c.wants.creditUpdate = true
	default:
		d.abort(c, syscall.ECONNRESET)
	}
	d.enqueue(c) // it may have something to say, or credit to go on
	return nil
}

func (d *Device) receiveData(c *Conn, n int, payload *queue.Buffer) error {
	if n > BufferSize-c.in.len() {
		d.abort(c, syscall.ECONNRESET) // more than it had credit for
		return nil
	}
	if c.closed || n == 0 {
		// Nobody reads it. The guest will learn from the shutdown that is on its way.
		c.forwarded += uint32(n)
		return nil
	}
	done, err := d.deliver(c, n, payload)
	if err != nil {
		return err
	}
	first, second := c.in.space(n - done)
	for _, p := range [][]byte{first, second} {
		if err := payload.Read(p); err != nil {
			return err
		}
	}
	c.in.grow(n - done)
	if c.in.len() > 0 {
		c.cond.Broadcast()
	}
	c.tellForwarded()
	d.enqueue(c)
	return nil
}
