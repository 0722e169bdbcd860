// Package balloon is the virtio memory balloon (virtio 1.2, section 5.5) with free-page reporting: how
// memory that the guest does not use goes back to the host.
package balloon

import (
	"encoding/binary"
	"sync"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/queue"
)

// The device's queues. The specification gives the reporting queue number 4, after two that this device
// has not; devices and drivers all count only the queues that exist.
const (
	queueInflate = iota
	queueDeflate
	queueReporting
)

// queueSize is more than the 32 that Linux's reporting requires.
const queueSize = 128

// Feature bits, as in linux/virtio_balloon.h.
const (
	featureDeflateOnOOM = 1 << 2
	featureReporting    = 1 << 5
)

// The configuration space: struct virtio_balloon_config.
const (
	configNumPages = 0
	configActual   = 4
	configSize     = 8
)

// Discard takes memory away from the guest: what it holds is lost, and the guest reads something, it
// does not matter what (but its own), when it next uses it. The range is whole pages within one region
// of RAM. An error stops the device.
type Discard func(guestmem.Range) error

// Device is a balloon. Free pages are reported by the guest on its own; the balloon proper is inflated
// and deflated by SetTarget.
type Device struct {
	discard Discard

	// The transport calls one at a time of the methods that use these.
	link   virtio.Link
	frames []uint32 // reused

	mu            sync.Mutex
	config        [configSize]byte
	configChanged func() // tells the driver, if there is one
}

// New returns an empty balloon.
func New(discard Discard) *Device { return &Device{discard: discard} }

// SetTarget asks the guest to give up that many pages (of guestmem.PageSize), in place of what was
// asked before. The guest complies when and as far as it can.
func (d *Device) SetTarget(pages uint32) {
	d.mu.Lock()
	binary.LittleEndian.PutUint32(d.config[configNumPages:], pages)
	changed := d.configChanged
	d.mu.Unlock()
	if changed != nil {
		changed()
	}
}

// Actual is how many pages the guest says it has given up.
func (d *Device) Actual() uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return binary.LittleEndian.Uint32(d.config[configActual:])
}

// ID implements virtio.Device.
func (d *Device) ID() uint32 { return virtio.IDBalloon }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return featureDeflateOnOOM | featureReporting }

// QueueSizes implements virtio.Device.
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize, queueSize, queueSize} }

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(off int, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	virtio.CopyConfig(d.config[:], off, p)
}

// WriteConfig implements virtio.Device: the driver keeps the actual size up to date.
func (d *Device) WriteConfig(off int, p []byte) {
	if off != configActual || len(p) != 4 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.config[configActual:], p)
}

// Activate implements virtio.Device.
func (d *Device) Activate(l virtio.Link) error {
	d.link = l
	d.mu.Lock()
	defer d.mu.Unlock()
	d.configChanged = l.ConfigChanged
	return nil
}

// Reset implements virtio.Device. A driver that starts has a balloon with nothing in it.
func (d *Device) Reset() {
	d.link = virtio.Link{}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.configChanged = nil
	clear(d.config[configActual:])
}

// batch is how many requests are served in one go: each may take the host some time.
const batch = 16

// Process implements virtio.Device.
func (d *Device) Process(i int) (more bool, err error) {
	serve := d.inflate
	switch i {
	case queueDeflate:
		// Pages come back by being used; the driver only wants its buffer back.
		serve = func(*queue.Chain) (uint32, error) { return 0, nil }
	case queueReporting:
		serve = d.report
	}
	interrupt, more, err := d.link.Queues[i].Drain(batch, serve)
	if interrupt {
		d.link.Interrupt()
	}
	return more, err
}
