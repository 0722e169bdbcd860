package blk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/virtio/queue"
)

// Types of request.
const (
	typeIn    = 0
	typeOut   = 1
	typeFlush = 4
	typeGetID = 8
)

// Status of a request, in its last byte.
const (
	statusOK          = 0
	statusIOError     = 1
	statusUnsupported = 2
)

const (
	headerSize = 16
	// maxData bounds the work of one request. Linux asks for 4 MiB at most, unless its
	// administrator insists.
	maxData = 32 << 20
	// maxSlices is how many pieces of memory one system call fills.
	maxSlices = 256
)

// errNoStatus is about a request that has no room for its outcome.
const errNoStatus = queue.Malformed("block request without status byte")

// request does one request. Only a request whose frame is broken is an error; what cannot be done is a
// status.
func (d *Device) request(c *queue.Chain) (written uint32, err error) {
	var header [headerSize]byte
	if err := c.Readable.Read(header[:]); err != nil {
		return 0, fmt.Errorf("block request: %w", err)
	}
	statusAt, err := c.Writable.CutLast()
	if err != nil {
		return 0, errNoStatus
	}
	kind := binary.LittleEndian.Uint32(header[0:])
	sector := binary.LittleEndian.Uint64(header[8:])
	status := byte(statusUnsupported)
	switch kind {
	case typeIn:
		status, written, err = d.read(c, sector)
	case typeOut:
		status = statusIOError // the disk says that it is read-only
	case typeFlush:
		status = statusOK // nothing is ever dirty
	case typeGetID:
		id := d.id[:min(uint64(len(d.id)), c.Writable.Len())]
		status, written = statusOK, uint32(len(id))
		err = c.Writable.Write(id)
	}
	if err != nil {
		return 0, err
	}
	if err := d.link.Memory.WriteAt([]byte{status}, statusAt); err != nil {
		return 0, err
	}
	// The length counts bytes written from the front, without a gap: if the data were not all
	// written, the status is not counted either.
	if c.Writable.Len() == 0 {
		written++
	}
	return written, nil
}

// read fills the writable buffer from the image.
func (d *Device) read(c *queue.Chain, sector uint64) (status byte, written uint32, err error) {
	n := c.Writable.Len()
	if n%sectorSize != 0 || n > maxData || sector > d.sectors || n/sectorSize > d.sectors-sector {
		return statusIOError, 0, nil
	}
	// Acquired for as long as the slices are in use.
	if err := d.link.Memory.Acquire(); err != nil {
		return 0, 0, err
	}
	defer d.link.Memory.Release()
	off := int64(sector * sectorSize)
	for n > 0 {
		slices, taken, err := c.Writable.Slices(d.slices[:0], n, maxSlices)
		if err != nil {
			return 0, 0, err
		}
		d.slices = slices
		err = readFull(d.image, slices, off)
		clear(slices) // keep no way to memory that may be unmapped
		if err != nil {
			return statusIOError, written, nil
		}
		off += int64(taken)
		n -= taken
		written += uint32(taken)
	}
	return statusOK, written, nil
}

// readFull fills the slices from a file, straight into guest memory.
func readFull(f *os.File, slices [][]byte, off int64) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	for len(slices) > 0 {
		var n int
		if controlErr := raw.Control(func(fd uintptr) { n, err = unix.Preadv(int(fd), slices, off) }); controlErr != nil {
			return controlErr
		}
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF // the image was truncated
		}
		off += int64(n)
		for n > 0 {
			k := min(n, len(slices[0]))
			n -= k
			if slices[0] = slices[0][k:]; len(slices[0]) == 0 {
				slices = slices[1:]
			}
		}
	}
	return nil
}
