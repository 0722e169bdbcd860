// Package rng is the virtio entropy device (virtio 1.2, section 5.4): the host's random numbers.
package rng

import (
	"crypto/rand"

	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/queue"
)

const (
	queueSize = 8
	// maxBytes bounds the work of one request. A device may return less than was asked for; Linux
	// asks for 64 bytes at a time.
	maxBytes = 4096
)

// errNoRoom is about a request with no buffer to fill.
const errNoRoom = queue.Malformed("entropy request without writable buffer")

// Device is a source of random numbers. It has no state: two guests restored from the same snapshot
// get different numbers.
type Device struct {
	link virtio.Link
}

// New returns a source of random numbers.
func New() *Device { return &Device{} }

// ID implements virtio.Device.
func (d *Device) ID() uint32 { return virtio.IDEntropy }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return 0 }

// QueueSizes implements virtio.Device.
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize} }

// ReadConfig implements virtio.Device; there is nothing to read.
func (d *Device) ReadConfig(_ int, p []byte) { clear(p) }

// WriteConfig implements virtio.Device; there is nothing to write.
func (d *Device) WriteConfig(int, []byte) {}

// Activate implements virtio.Device.
func (d *Device) Activate(l virtio.Link) error {
	d.link = l
	return nil
}

// Reset implements virtio.Device.
func (d *Device) Reset() { d.link = virtio.Link{} }

// Process implements virtio.Device.
func (d *Device) Process(i int) (more bool, err error) {
	interrupt, more, err := d.link.Queues[i].Drain(queueSize, func(c *queue.Chain) (uint32, error) {
		n := min(c.Writable.Len(), maxBytes)
		if n == 0 {
			return 0, errNoRoom
		}
		// Through a buffer of the host's: what the guest reads is never what it could change while
		// the generator writes.
		var b [maxBytes]byte
		_, _ = rand.Read(b[:n]) // never fails
		return uint32(n), c.Writable.Write(b[:n])
	})
	if interrupt {
		d.link.Interrupt()
	}
	return more, err
}
