package vsock

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"syscall"

	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/queue"
)

// The device's queues, in order.
const (
	queueRX = iota // to the guest
	queueTX        // from the guest
	queueEvent
)

const (
	// BufferSize is how many bytes from the guest a connection buffers until they are read.
	BufferSize = 256 << 10
	// maxConns bounds the connections, with those that are being closed.
	maxConns = 1024
	// maxResets bounds the replies that belong to no connection.
	maxResets = 128
	// batch is how many packets are moved in one go.
	batch = 256
)

// Device is a guest's socket device and its host side.
type Device struct {
	cid    uint64
	config [8]byte

	mu        sync.Mutex
	link      virtio.Link // of the active device; without queues if there is none
	closed    bool
	conns     map[key]*Conn
	listeners map[uint32]*listener
	nextPort  uint32
	ready     []*Conn // have something to send, in turn
	resets    []reset
	txPending bool // tx was announced and is not known to be empty
	event     eventPhase
	eventIdx  uint16   // of the event queue when the event was sent
	pieces    [][]byte // for deliver, empty in between
}

// reset is a reply to a packet that belongs to no connection.
type reset struct {
	key
	kind uint16
}

// eventPhase is how far the announcement of a transport reset is.
type eventPhase int

const (
	eventNone eventPhase = iota
	eventWanted
	eventSent
)

// New returns the device of a guest with the given context ID. Guests may have the same one, since each
// has a host side of its own.
func New(cid uint64) (*Device, error) {
	if cid <= hostCID || cid >= 0xffffffff {
		return nil, fmt.Errorf("virtio socket device: reserved context ID %d", cid)
	}
	d := &Device{cid: cid, conns: map[key]*Conn{}, listeners: map[uint32]*listener{}, nextPort: firstPort}
	binary.LittleEndian.PutUint64(d.config[:], cid)
	return d, nil
}

// ID implements virtio.Device.
func (d *Device) ID() uint32 { return virtio.IDVsock }

// Features implements virtio.Device. Without any, stream sockets are implied.
func (d *Device) Features() uint64 { return 0 }

// QueueSizes implements virtio.Device.
func (d *Device) QueueSizes() []uint16 { return []uint16{128, 128, 8} }

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(off int, p []byte) { virtio.CopyConfig(d.config[:], off, p) }

// WriteConfig implements virtio.Device; nothing can be set.
func (d *Device) WriteConfig(int, []byte) {}

// Activate implements virtio.Device.
func (d *Device) Activate(l virtio.Link) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.link = l
	if l.Queues[queueEvent] == nil {
		d.event = eventNone // there is no way to tell
	}
	return nil
}

// Reset implements virtio.Device. Connections that the guest knows of are gone; what the guest was not
// told of waits for its next driver.
func (d *Device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.link = virtio.Link{}
	d.resets, d.txPending, d.event = nil, false, eventNone
	for _, c := range d.conns {
		if !c.wants.request {
			d.remove(c, syscall.ECONNRESET)
		}
	}
}

// Close ends all connections and listeners, and refuses new ones.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, c := range d.conns {
		d.remove(c, net.ErrClosed)
	}
	for _, l := range d.listeners {
		d.unlisten(l)
	}
	return nil
}

// notify has rx served: the caller has given it something to do, and holds no lock.
func (d *Device) notify() {
	d.mu.Lock()
	notify := d.link.Notify
	d.mu.Unlock()
	if notify != nil {
		notify(queueRX)
	}
}

// Process implements virtio.Device.
func (d *Device) Process(i int) (more bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var served [3]bool
	if d.event != eventNone {
		if served[queueEvent], err = d.sendEvent(d.link.Queues[queueEvent]); err != nil {
			return false, err
		}
	}
	d.txPending = d.txPending || i == queueTX
	if d.canServeTX() {
		if served[queueTX], err = d.serveTX(); err != nil {
			return false, err
		}
	}
	served[queueRX], more, err = d.serveRX()
	if served != [3]bool{} {
		d.link.Interrupt()
	}
	return more || d.canServeTX(), err
}

// sendEvent tells the guest about the transport reset, and finds out whether it has handled it.
func (d *Device) sendEvent(q *queue.Queue) (interrupt bool, err error) {
	if q == nil {
		d.event = eventNone // the driver has withdrawn the queue; there is no way to tell it
		return false, nil
	}
	if d.event == eventWanted {
		idx, err := q.Await()
		if err != nil {
			return false, err
		}
		c, err := q.Next()
		if c == nil || err != nil {
			return false, err
		}
		var id [4]byte // VIRTIO_VSOCK_EVENT_TRANSPORT_RESET
		if err := c.Writable.Write(id[:]); err != nil {
			return false, fmt.Errorf("socket event: %w", err)
		}
		if err := q.Push(c.Head(), uint32(len(id))); err != nil {
			return false, err
		}
		if interrupt, err = q.Publish(); err != nil {
			return false, err
		}
		d.event, d.eventIdx = eventSent, idx
	}
	idx, err := q.Await()
	if err == nil && idx != d.eventIdx {
		d.event = eventNone
	}
	return interrupt, err
}
