package qemu

import (
	"slices"
	"strings"
	"sync"
)

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-tailSize):]...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = t.buf[:copy(t.buf, t.buf[over:])]
	}
	return len(p), nil
}

func (t *tail) contains(s string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Contains(string(t.buf), s)
}

// lines returns the last n lines that are not empty, or those from a kernel's panic on, as one line:
// it becomes part of an error.
// Control characters, which a guest could use against a terminal, are dropped.
func (t *tail) lines(n int) string {
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
	// What follows a panic's first line is a dump of registers.
	from := slices.IndexFunc(list, func(line string) bool { return strings.Contains(line, "Kernel panic") })
	if from < 0 {
		from = max(0, len(list)-n)
	}
	return strings.Join(list[from:min(len(list), from+n)], " | ")
}
