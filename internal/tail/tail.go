// Package tail keeps the end of what a program or a guest has said, for the error that it becomes
// part of.
package tail

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// Tail keeps the end of what is written to it. It may be used concurrently.
type Tail struct {
	size int

	mu  sync.Mutex
	buf []byte
}

// New returns an empty Tail that keeps size bytes.
func New(size int) *Tail { return &Tail{size: size} }

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-t.size):]...)
	if over := len(t.buf) - t.size; over > 0 {
		t.buf = t.buf[:copy(t.buf, t.buf[over:])]
	}
	return len(p), nil
}

// readSize is how much is read at a time: who keeps the end of a thousand programs' output has a buffer for each.
const readSize = 2 << 10

// ReadFrom writes what it reads until the end of r. io.Copy uses it, and would have a larger buffer by itself.
func (t *Tail) ReadFrom(r io.Reader) (int64, error) { return Copy(t, r) }

// Copy copies until the end of r with a small buffer.
func Copy(w io.Writer, r io.Reader) (n int64, err error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, readSize))
}

// Contains tells whether s is in what is kept.
func (t *Tail) Contains(s string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Contains(t.buf, []byte(s))
}

// Lines returns the lines that are not empty. Control characters, which a guest could use against a
// terminal, are dropped.
func (t *Tail) Lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []string
	for line := range strings.Lines(string(t.buf)) {
		line = strings.TrimSpace(strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f || r == '\ufffd' {
				return -1
			}
			return r
		}, line))
		if line != "" {
			list = append(list, line)
		}
	}
	return list
}

// Last returns the last n lines as one.
func (t *Tail) Last(n int) string {
	list := t.Lines()
	return Join(list[max(0, len(list)-n):])
}

// Join makes one line of several.
func Join(lines []string) string { return strings.Join(lines, " | ") }
