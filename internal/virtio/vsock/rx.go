package vsock

import (
	"fmt"
	"slices"

	"github.com/aethervm/aether/internal/virtio/queue"
)

// serveRX sends packets to the guest as long as there are some and the guest has room.
func (d *Device) serveRX() (interrupt, more bool, err error) {
	q := d.link.Queues[queueRX]
	if q == nil {
		return false, false, nil
	}
	if more, err = d.fillRX(q); err != nil {
		return false, false, err
	}
	interrupt, err = q.Publish()
	return interrupt, more, err
}

// fillRX puts packets into buffers of the guest. more tells that it could go on.
func (d *Device) fillRX(q *queue.Queue) (more bool, err error) {
	for range batch {
		if !d.hasPacket() {
			return false, nil
		}
		c, err := q.Next()
		if err != nil {
			return false, err
		}
		if c == nil {
			return q.EnableNotify()
		}
		n, err := d.nextPacket(c)
		if err != nil {
			return false, fmt.Errorf("receive buffer for sockets: %w", err)
		}
		if err := q.Push(c.Head(), n); err != nil {
			return false, err
		}
	}
	return true, nil
}

// hasPacket tells whether there is something to send now. After it, nextPacket finds it.
func (d *Device) hasPacket() bool {
	if d.event != eventNone {
		return false
	}
	if len(d.resets) > 0 {
		return true
	}
	for len(d.ready) > 0 && !d.ready[0].hasOutput() {
		d.dequeue()
	}
	return len(d.ready) > 0
}

// enqueue gives a connection a turn, if it has something to send.
func (d *Device) enqueue(c *Conn) {
	if c.queued || !c.hasOutput() {
		return
	}
	if len(d.ready) >= 2*maxConns {
		d.forgetIdle()
	}
	c.queued = true
	d.ready = append(d.ready, c)
}

// forgetIdle takes connections that have nothing to send any more out of the line. They drop out by
// themselves when their turn comes, but a guest that gives no receive buffers and goes on opening and
// resetting connections would make the line ever longer.
func (d *Device) forgetIdle() {
	d.ready = slices.DeleteFunc(d.ready, func(c *Conn) bool {
		c.queued = c.hasOutput()
		return !c.queued
	})
}

func (d *Device) dequeue() *Conn {
	c := d.ready[0]
	d.ready[0] = nil
	d.ready = d.ready[1:]
	c.queued = false
	return c
}

// nextPacket writes the next packet and returns its size.
func (d *Device) nextPacket(chain *queue.Chain) (uint32, error) {
	w := &chain.Writable
	if w.Len() <= headerSize { // there must be room for at least one byte of data
		return 0, fmt.Errorf("%w: %d bytes", queue.ErrShort, w.Len())
	}
	var (
		h    header
		data []byte
	)
	if len(d.resets) > 0 {
		r := d.resets[0]
		d.resets = d.resets[1:]
		h = header{srcPort: r.host, dstPort: r.guest, kind: r.kind, op: opReset}
	} else {
		c := d.dequeue()
		h, data = c.packet(w.Len() - headerSize)
		d.sent(c, h.op)
	}
	h.srcCID, h.dstCID, h.len = hostCID, d.cid, uint32(len(data))
	var b [headerSize]byte
	h.encode(&b)
	if err := w.Write(b[:]); err != nil {
		return 0, err
	}
	return headerSize + h.len, w.Write(data)
}

// sent does what follows from having sent a packet of a connection.
func (d *Device) sent(c *Conn, op uint16) {
	switch op {
	case opReset:
		d.remove(c, nil)
	case opData:
		if len(c.out) == 0 {
			c.cond.Broadcast()
		}
	}
	d.enqueue(c)
}
