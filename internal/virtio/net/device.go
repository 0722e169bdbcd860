// Package net is the virtio network card (virtio 1.2, section 5.1), without offloads: frames go to and
// come from a backend as they are.
package net

import (
	"errors"
	"fmt"
	"sync"

	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/queue"
)

// The device's queues, in order.
const (
	queueRX = iota // to the guest
	queueTX        // from the guest
)

const (
	queueSize = 256
	// batch is how many frames are moved in one go.
	batch = 64
	// maxWaiting bounds the frames that wait for buffers of the guest; more are dropped, as on any
	// network.
	maxWaiting = 256
)

// Feature bits, as in linux/virtio_net.h.
const (
	featureMTU = 1 << 3
	featureMAC = 1 << 5
)

const (
	// headerSize is the size of struct virtio_net_hdr_v1, which precedes every frame.
	headerSize = 12
	// ethernetHeader is the size of the addresses and the type before a packet.
	ethernetHeader = 14
	// MTU is the largest packet in a frame.
	MTU = 1500
	// maxFrame leaves room for a VLAN tag.
	maxFrame = MTU + ethernetHeader + 4
)

// The configuration space: struct virtio_net_config up to the MTU.
const (
	configMAC  = 0
	configMTU  = 10
	configSize = 12
)

// Backend is what the card is plugged into.
type Backend interface {
	// Send takes a frame of the guest, of any content, Ethernet's header included. It does not
	// block, does not keep the frame, and does not call Deliver before it has returned.
	Send(frame []byte)
}

// Device is a network card.
type Device struct {
	backend Backend
	config  [configSize]byte

	frame [maxFrame]byte // of Process

	mu      sync.Mutex
	link    virtio.Link
	waiting [][]byte // frames for the guest
}

// New returns a card with the given hardware address.
func New(mac [6]byte, backend Backend) *Device {
	d := &Device{backend: backend}
	copy(d.config[configMAC:], mac[:])
	d.config[configMTU], d.config[configMTU+1] = MTU&0xff, MTU>>8
	return d
}

// Deliver sends a frame to the guest. It is dropped if the guest has no driver, does not keep up, or if
// it is longer than the MTU allows.
func (d *Device) Deliver(frame []byte) {
	d.mu.Lock()
	notify := d.link.Notify
	if notify == nil || len(frame) > maxFrame || len(d.waiting) >= maxWaiting {
		d.mu.Unlock()
		return
	}
	d.waiting = append(d.waiting, append([]byte(nil), frame...))
	d.mu.Unlock()
	notify(queueRX)
}

// ID implements virtio.Device.
func (d *Device) ID() uint32 { return virtio.IDNet }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return featureMTU | featureMAC }

// QueueSizes implements virtio.Device.
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize, queueSize} }

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(off int, p []byte) { virtio.CopyConfig(d.config[:], off, p) }

// WriteConfig implements virtio.Device; nothing can be set.
func (d *Device) WriteConfig(int, []byte) {}

// Activate implements virtio.Device.
func (d *Device) Activate(l virtio.Link) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.link = l
	return nil
}

// Reset implements virtio.Device.
func (d *Device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.link, d.waiting = virtio.Link{}, nil
}

// Process implements virtio.Device.
func (d *Device) Process(i int) (more bool, err error) {
	var interrupt bool
	if i == queueRX {
		interrupt, more, err = d.receive()
	} else {
		// Without the lock: the backend is at work.
		interrupt, more, err = d.link.Queues[queueTX].Drain(batch, d.transmit)
	}
	if interrupt {
		d.link.Interrupt()
	}
	return more, err
}

// transmit passes a frame of the guest on. The header before it only describes offloads that were not
// negotiated. What no driver would send is dropped.
func (d *Device) transmit(c *queue.Chain) (uint32, error) {
	var header [headerSize]byte
	if err := c.Readable.Read(header[:]); err != nil {
		return 0, fmt.Errorf("network packet: %w", err)
	}
	n := c.Readable.Len()
	if n < ethernetHeader || n > maxFrame {
		return 0, nil
	}
	frame := d.frame[:n]
	if err := c.Readable.Read(frame); err != nil {
		return 0, err
	}
	d.backend.Send(frame)
	return 0, nil
}

// receive gives the guest the frames that wait for it.
func (d *Device) receive() (interrupt, more bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.link.Queues[queueRX]
	more, fillErr := d.fill(q)
	interrupt, err = q.Publish()
	return interrupt, more, errors.Join(fillErr, err)
}

// fill moves frames to buffers of the guest. more tells that it could go on.
func (d *Device) fill(q *queue.Queue) (more bool, err error) {
	for range batch {
		if len(d.waiting) == 0 {
			return false, nil
		}
		c, err := q.Next()
		if err != nil {
			return false, err
		}
		if c == nil {
			return q.EnableNotify()
		}
		frame := d.waiting[0]
		d.waiting[0] = nil
		d.waiting = d.waiting[1:]
		header := [headerSize]byte{10: 1} // the frame is in one buffer
		if err := errors.Join(c.Writable.Write(header[:]), c.Writable.Write(frame)); err != nil {
			return false, fmt.Errorf("network receive buffer: %w", err)
		}
		if err := q.Push(c.Head(), uint32(headerSize+len(frame))); err != nil {
			return false, err
		}
	}
	return true, nil
}
