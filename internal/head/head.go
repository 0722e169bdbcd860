// Package head keeps the beginning of what a program says, where only so much of it can be of use.
package head

// Head keeps the first bytes of what is written to it and drops the rest. It is for one writer at a time.
//
// It has no buffer embedded: io.Copy would use that one's ReadFrom, which knows no limit.
type Head struct {
	size int
	buf  []byte
	more bool
}

// New returns an empty Head that keeps size bytes.
func New(size int) *Head { return &Head{size: size} }

// Write never fails.
func (h *Head) Write(p []byte) (int, error) {
	room := min(len(p), h.size-len(h.buf))
	h.more = h.more || room < len(p)
	h.buf = append(h.buf, p[:room]...)
	return len(p), nil
}

// Bytes returns what is kept, until the next Write.
func (h *Head) Bytes() []byte { return h.buf }

// String returns what is kept.
func (h *Head) String() string { return string(h.buf) }

// More tells whether something was dropped.
func (h *Head) More() bool { return h.more }
