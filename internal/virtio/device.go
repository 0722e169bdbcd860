package virtio

import (
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/virtio/queue"
)

// Kinds of device, as in linux/virtio_ids.h.
const (
	IDNet     = 1
	IDBlock   = 2
	IDEntropy = 4
	IDBalloon = 5
	IDVsock   = 19
)

// Feature bits that do not depend on the kind of device. The transport offers and interprets them.
const (
	FeatureIndirectDesc = 1 << 28
	FeatureEventIdx     = 1 << 29
	FeatureVersion1     = 1 << 32
)

// Device is one kind of device, as the transport drives it. The transport calls its methods one at a
// time, except that State methods and a device's own methods for the host may be called at any time.
type Device interface {
	// ID is the kind of device.
	ID() uint32
	// Features are the feature bits of this kind that the device offers, always the same.
	Features() uint64
	// QueueSizes are the largest sizes of the device's queues, powers of two up to queue.MaxSize.
	QueueSizes() []uint16
	// ReadConfig fills p from the configuration space at off. What is not there reads as zero. It may
	// be called at the same time as the other methods.
	ReadConfig(off int, p []byte)
	// WriteConfig is told what the driver writes to the configuration space, sensible or not.
	WriteConfig(off int, p []byte)
	// Activate begins the driver's use of the device, which Reset ends.
	Activate(Link) error
	// Process serves one queue of an activated device. It returns soon and tells whether there is
	// more to serve. An error stops the device: the driver must reset it.
	Process(queue int) (more bool, err error)
	// Reset forgets the driver and what it was told. It is idempotent.
	Reset()
}

// Link is an activated device's way to its driver.
type Link struct {
	// Memory is what the queues' buffers are in.
	Memory *guestmem.Memory
	// Features are the bits that the driver has accepted.
	Features uint64
	// Queues are in the device's order; nil where the driver has set up none.
	Queues []*queue.Queue
	// Interrupt tells the driver that buffers were used. It may be called at any time.
	Interrupt func()
	// ConfigChanged tells the driver that the configuration space has changed. It may be called at
	// any time.
	ConfigChanged func()
	// Notify has the transport call Process, unless the device is paused, stopped or reset by then. A
	// paused device has all its queues processed when it resumes. It returns soon: a queue that the
	// driver keeps busy is left to a goroutine. It is called neither from within the Device's methods
	// nor with a lock that they take.
	Notify func(queue int)
}

// CopyConfig is ReadConfig for a configuration space of fixed bytes.
func CopyConfig(space []byte, off int, p []byte) {
	clear(p)
	if off >= 0 && off < len(space) {
		copy(p, space[off:])
	}
}
