package machine

import (
	"io"
	"sync"
)

// consoleTail is how much of the console is kept: a panic's report with its call traces.
const consoleTail = 16 << 10

// console keeps the end of what the guest writes and passes everything on.
type console struct {
	sink io.Writer // may be nil

	mu   sync.Mutex
	ring []byte // grows to consoleTail
	next int    // where the next byte goes once it is full
}

// Write implements io.Writer; it does not fail.
func (c *console) Write(p []byte) (int, error) {
	c.keep(p)
	if c.sink != nil {
		_, _ = c.sink.Write(p)
	}
	return len(p), nil
}

func (c *console) keep(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p = p[max(0, len(p)-consoleTail):]
	n := min(consoleTail-len(c.ring), len(p))
	c.ring = append(c.ring, p[:n]...)
	for p = p[n:]; len(p) > 0; p = p[n:] {
		n = copy(c.ring[c.next:], p)
		c.next = (c.next + n) % consoleTail
	}
}

// tail returns what is kept, oldest first.
func (c *console) tail() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(append([]byte(nil), c.ring[c.next:]...), c.ring[:c.next]...)
}
