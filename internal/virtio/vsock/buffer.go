package vsock

import "math/bits"

// buffer is a FIFO of bytes that grows as needed. An idle connection that has not seen much traffic
// holds little memory.
type buffer struct {
	ring     []byte // its length is a power of two
	start, n int
}

const (
	minRing = 4 << 10
	// keepRing is the most that an empty buffer keeps.
	keepRing = 128 << 10
)

func (b *buffer) len() int { return b.n }

// space makes room for n bytes and returns it, in two parts; grow makes them content.
func (b *buffer) space(n int) (first, second []byte) {
	if need := b.n + n; need > len(b.ring) {
		ring := make([]byte, max(minRing, 1<<bits.Len(uint(need-1))))
		b.copyTo(ring)
		b.ring, b.start = ring, 0
	}
	from := (b.start + b.n) & (len(b.ring) - 1)
	first = b.ring[from:min(from+n, len(b.ring))]
	return first, b.ring[:n-len(first)]
}

func (b *buffer) grow(n int) { b.n += n }

// add appends p.
func (b *buffer) add(p []byte) {
	first, second := b.space(len(p))
	copy(second, p[copy(first, p):])
	b.grow(len(p))
}

func (b *buffer) copyTo(p []byte) int {
	n := min(len(p), b.n)
	k := copy(p[:n], b.ring[b.start:])
	copy(p[k:n], b.ring)
	return n
}

// read moves bytes from the front to p.
func (b *buffer) read(p []byte) int {
	n := b.copyTo(p)
	if b.n -= n; b.n > 0 {
		b.start = (b.start + n) & (len(b.ring) - 1)
		return n
	}
	b.start = 0
	if len(b.ring) > keepRing {
		b.ring = nil
	}
	return n
}
