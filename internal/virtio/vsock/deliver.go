package vsock

import (
	"fmt"

	"github.com/aethervm/aether/internal/virtio/queue"
)

// maxDelivered is how many pieces of a packet are delivered: more than drivers make of one. The rest of it waits
// to be read, so that a packet costs one call.
const maxDelivered = 8

// Deliver has try called for what the guest sends from now on, by the thread that processes the packet, a vCPU's
// mostly, with no goroutine between. try takes what it can without waiting, from the front, and returns how many bytes
// that are. It keeps no piece: they are the guest's memory, which may change at any moment. It is called with the device's
// lock held, and must not call the device. What it does not take is for Read.
//
// The order is kept for a caller of Read who writes what he has read to where try writes before he calls Read
// again: from when Read has returned something until it is called with nothing to read, try is not called.
func (c *Conn) Deliver(try func(pieces [][]byte) int) {
	c.dev.mu.Lock()
	defer c.dev.mu.Unlock()
	c.try = try
}

// deliver tries to deliver the first n bytes of the payload, and returns how many it has dealt with: what is not
// taken of them is in the buffer for Read.
func (d *Device) deliver(c *Conn, n int, payload *queue.Buffer) (int, error) {
	if c.try == nil || c.unread || c.in.len() > 0 {
		return 0, nil
	}
	// Acquired for as long as the pieces are in use.
	if err := d.link.Memory.Acquire(); err != nil {
		return 0, err
	}
	defer d.link.Memory.Release()
	pieces, size, err := payload.Slices(d.pieces[:0], uint64(n), maxDelivered)
	d.pieces = pieces
	defer clear(pieces) // keep no way to memory that may be unmapped
	if err != nil {
		return 0, fmt.Errorf("socket packet: %w", err)
	}
	taken := c.try(pieces)
	c.forwarded += uint32(taken)
	for _, p := range pieces {
		skip := min(taken, len(p))
		taken -= skip
		c.in.add(p[skip:])
	}
	return int(size), nil
}
