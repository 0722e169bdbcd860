package queue

import "errors"

// ErrMalformed matches, with errors.Is, every Malformed.
var ErrMalformed = errors.New("virtio: malformed by the driver")

// Malformed is an error about what the driver wrote into guest memory or a register. A device that
// meets one stops until the driver resets it. Devices define constants of this type for their own
// requests.
type Malformed string

// Error implements error.
func (m Malformed) Error() string { return "virtio: " + string(m) }

// Is makes every Malformed match ErrMalformed.
func (m Malformed) Is(target error) bool { return target == ErrMalformed }

// What can be wrong with a queue.
const (
	// ErrConfig: the queue's size or the place of one of its areas is not allowed.
	ErrConfig = Malformed("invalid queue configuration")
	// ErrAvailIndex: the driver offers more chains than the queue has descriptors.
	ErrAvailIndex = Malformed("available index out of range")
	// ErrDescIndex: a descriptor's number is not in the table.
	ErrDescIndex = Malformed("descriptor index out of range")
	// ErrLoop: a chain has more descriptors than its table.
	ErrLoop = Malformed("descriptor chain loops")
	// ErrTooLong: a chain's buffers add up to 4 GiB or more.
	ErrTooLong = Malformed("descriptor chain too long")
	// ErrIndirect: an indirect table that is nested, not negotiated, or of an invalid size.
	ErrIndirect = Malformed("invalid indirect descriptor")
	// ErrBuffer: a buffer is empty or not in guest memory.
	ErrBuffer = Malformed("invalid buffer")
	// ErrOrder: a buffer for the device to read comes after one for it to write.
	ErrOrder = Malformed("readable buffer after writable one")
	// ErrShort: a chain's buffers are smaller than the request or the reply.
	ErrShort = Malformed("descriptor chain too short")
)
