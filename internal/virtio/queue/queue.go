// Package queue is the device's side of a split virtqueue (virtio 1.2, section 2.7).
//
// The driver owns the descriptor table and the available ring, the device the used ring. Everything
// the driver wrote is fetched once, checked, and used from the copy; what is wrong is a [Malformed]
// error, after which the queue is not used any more. The work that one chain can cause is bounded by
// the size of its table.
package queue

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/aethervm/aether/internal/guestmem"
)

const (
	// MaxSize is the largest number of descriptors of a queue.
	MaxSize = 1024
	// maxIndirect is the largest number of descriptors of an indirect table. Linux makes tables
	// longer than the queue, so the bound is one of its own.
	maxIndirect = 1024
	// maxBytes bounds the sum of a chain's buffers: the used ring reports lengths in 32 bits.
	maxBytes = 1<<32 - 1
)

// Sizes and flags of the rings, as in linux/virtio_ring.h.
const (
	descSize = 16
	usedSize = 8
	ringHead = 4 // flags and index, before the entries

	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	availNoInterrupt = 1
	usedNoNotify     = 1
)

// Config says where a queue lies in guest memory.
type Config struct {
	// Size is the number of descriptors, a power of two.
	Size uint16
	// Desc, Avail and Used are the guest-physical addresses of the descriptor table, the available
	// ring (driver area) and the used ring (device area).
	Desc, Avail, Used uint64
}

// check returns ErrConfig if the areas are not, wholly and aligned, in guest memory.
func (c Config) check(mem *guestmem.Memory) error {
	if c.Size == 0 || c.Size > MaxSize || c.Size&(c.Size-1) != 0 {
		return fmt.Errorf("%w: %d descriptors", ErrConfig, c.Size)
	}
	n := uint64(c.Size)
	for _, a := range []struct {
		name              string
		addr, size, align uint64
	}{
		{"descriptor table", c.Desc, descSize * n, 16},
		// Each ring is followed by the other side's event index.
		{"available ring", c.Avail, ringHead + 2*n + 2, 2},
		{"used ring", c.Used, ringHead + usedSize*n + 2, 4},
	} {
		if a.addr%a.align != 0 {
			return fmt.Errorf("%w: %s at %#x is misaligned", ErrConfig, a.name, a.addr)
		}
		if err := contains(mem, a.addr, a.size); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrConfig, a.name, err)
		}
	}
	return nil
}

// contains returns an error unless the n bytes at addr are in one region of guest memory.
func contains(mem *guestmem.Memory, addr, n uint64) error {
	_, err := mem.Slice(addr, n)
	return err
}

// Options are what was negotiated.
type Options struct {
	// Indirect: VIRTIO_F_INDIRECT_DESC.
	Indirect bool
	// EventIdx: VIRTIO_F_EVENT_IDX.
	EventIdx bool
}

// Queue is the device's side of a virtqueue. Its methods must not be called concurrently.
type Queue struct {
	mem     *guestmem.Memory
	cfg     Config
	opt     Options
	stopped bool

	availIdx  uint16 // the driver's index as last loaded
	lastAvail uint16 // of the next chain to take
	usedIdx   uint16 // of the next element of the used ring
	published uint16 // the used index that the driver sees
	signalled uint16 // the used index at the last interrupt
	// fresh: no interrupt was decided yet, so signalled means nothing.
	fresh bool

	chain Chain // reused, so that taking a chain allocates nothing
}

// New returns a queue that the driver has just set up.
func New(mem *guestmem.Memory, cfg Config, opt Options) (*Queue, error) {
	return Restore(mem, State{Config: cfg}, opt)
}

// Size is the number of descriptors.
func (q *Queue) Size() int { return int(q.cfg.Size) }

// Stop makes the queue look empty for ever: the driver has taken its memory back.
func (q *Queue) Stop() { q.stopped = true }

// pending loads the driver's index if all chains of the last load are taken, and tells how many
// chains can be taken.
func (q *Queue) pending() (uint16, error) {
	if q.stopped {
		return 0, nil
	}
	if n := q.availIdx - q.lastAvail; n != 0 {
		return n, nil
	}
	return q.reload()
}

func (q *Queue) reload() (uint16, error) {
	idx, err := q.mem.LoadUint16(q.cfg.Avail + 2)
	if err != nil {
		return 0, err
	}
	n := idx - q.lastAvail
	if n > q.cfg.Size {
		return 0, fmt.Errorf("%w: %d after %d, of %d", ErrAvailIndex, idx, q.lastAvail, q.cfg.Size)
	}
	q.availIdx = idx
	return n, nil
}

// Empty tells whether there is nothing to take.
func (q *Queue) Empty() (bool, error) {
	n, err := q.pending()
	return n == 0, err
}

// Next takes the next chain, or returns nil if there is none. The chain is valid until the call after.
// What was taken is given back with Push.
func (q *Queue) Next() (*Chain, error) {
	n, err := q.pending()
	if n == 0 || err != nil {
		return nil, err
	}
	slot := uint64(q.lastAvail & (q.cfg.Size - 1))
	head, err := q.mem.LoadUint16(q.cfg.Avail + ringHead + 2*slot)
	if err != nil {
		return nil, err
	}
	if err := q.chain.fetch(q, head); err != nil {
		return nil, err
	}
	q.lastAvail++
	return &q.chain, nil
}

// Push gives the chain that starts at head back, with the number of bytes that were written to it.
// The driver does not see it before Publish.
func (q *Queue) Push(head uint16, written uint32) error {
	if q.stopped {
		return nil
	}
	var elem [usedSize]byte
	binary.LittleEndian.PutUint32(elem[0:], uint32(head))
	binary.LittleEndian.PutUint32(elem[4:], written)
	slot := uint64(q.usedIdx & (q.cfg.Size - 1))
	if err := q.mem.WriteAt(elem[:], q.cfg.Used+ringHead+usedSize*slot); err != nil {
		return err
	}
	q.usedIdx++
	return nil
}

// Publish shows the driver what was pushed, and tells whether it wants an interrupt for it.
func (q *Queue) Publish() (interrupt bool, err error) {
	if q.stopped || q.usedIdx == q.published {
		return false, nil
	}
	if err := q.mem.StoreUint16(q.cfg.Used+2, q.usedIdx); err != nil {
		return false, err
	}
	q.published = q.usedIdx
	return q.wantsInterrupt()
}

// Drain gives serve the available chains, but no more than limit so that a busy driver cannot keep the
// device for ever, and gives them back with the number of bytes that serve has written. more tells that
// there are more chains. What was served before an error is given back.
func (q *Queue) Drain(limit int, serve func(*Chain) (written uint32, err error)) (interrupt, more bool, err error) {
	if err := q.DisableNotify(); err != nil {
		return false, false, err
	}
	serveErr := q.drain(limit, serve)
	interrupt, err = q.Publish()
	if err := errors.Join(serveErr, err); err != nil {
		return interrupt, false, err
	}
	more, err = q.EnableNotify()
	return interrupt, more, err
}

func (q *Queue) drain(limit int, serve func(*Chain) (uint32, error)) error {
	for range limit {
		c, err := q.Next()
		if c == nil || err != nil {
			return err
		}
		head := c.head
		written, err := serve(c)
		if err != nil {
			return err
		}
		if err := q.Push(head, written); err != nil {
			return err
		}
	}
	return nil
}
