// Package blk is the virtio block device (virtio 1.2, section 5.2), read-only: the base image of a
// root file system.
package blk

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/aethervm/aether/internal/virtio"
)

const (
	sectorSize = 512
	queueSize  = 256
	// maxSegments is how many pieces the data of a request may have; two descriptors more are the
	// header and the status.
	maxSegments = queueSize - 2
	idSize      = 20
)

// Feature bits, as in linux/virtio_blk.h.
const (
	featureSegMax   = 1 << 2
	featureReadOnly = 1 << 5
	featureBlkSize  = 1 << 6
	featureFlush    = 1 << 9
)

// Config is what the disk is made of.
type Config struct {
	// Image is the disk's content. A last sector that is not full is cut off. The device does not
	// close it; it stays open until the machine is gone.
	Image *os.File
	// ID is the serial number that the guest can ask for, at most 20 bytes.
	ID string
}

// Device is a read-only disk.
type Device struct {
	image   *os.File
	sectors uint64
	id      [idSize]byte
	config  [configSize]byte

	// The transport calls one at a time of the methods that use these.
	link   virtio.Link
	slices [][]byte // reused
}

// The configuration space up to the last field in use (struct virtio_blk_config).
const (
	configCapacity = 0
	configSegMax   = 12
	configBlkSize  = 20
	configSize     = 24
)

// New returns a disk with the content of an image.
func New(cfg Config) (*Device, error) {
	if len(cfg.ID) > idSize {
		return nil, fmt.Errorf("virtio block device: ID %q is longer than %d bytes", cfg.ID, idSize)
	}
	info, err := cfg.Image.Stat()
	if err != nil {
		return nil, fmt.Errorf("virtio block device: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("virtio block device: image %s is not a regular file", cfg.Image.Name())
	}
	d := &Device{image: cfg.Image, sectors: uint64(info.Size()) / sectorSize}
	copy(d.id[:], cfg.ID)
	binary.LittleEndian.PutUint64(d.config[configCapacity:], d.sectors)
	binary.LittleEndian.PutUint32(d.config[configSegMax:], maxSegments)
	binary.LittleEndian.PutUint32(d.config[configBlkSize:], sectorSize)
	return d, nil
}

// ID implements virtio.Device.
func (d *Device) ID() uint32 { return virtio.IDBlock }

// Features implements virtio.Device.
func (d *Device) Features() uint64 {
	return featureSegMax | featureReadOnly | featureBlkSize | featureFlush
}

// QueueSizes implements virtio.Device.
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize} }

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(off int, p []byte) { virtio.CopyConfig(d.config[:], off, p) }

// WriteConfig implements virtio.Device; nothing of a disk can be set.
func (d *Device) WriteConfig(int, []byte) {}

// Activate implements virtio.Device.
func (d *Device) Activate(l virtio.Link) error {
	d.link = l
	return nil
}

// Reset implements virtio.Device.
func (d *Device) Reset() { d.link = virtio.Link{} }

// batch is how many requests are served before the device tells the driver and lets go of its lock.
const batch = 16

// Process implements virtio.Device.
func (d *Device) Process(i int) (more bool, err error) {
	interrupt, more, err := d.link.Queues[i].Drain(batch, d.request)
	if interrupt {
		d.link.Interrupt()
	}
	return more, err
}
