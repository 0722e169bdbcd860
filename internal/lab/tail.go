package lab

import (
	"strings"
	"sync"
)

const tailSize = 16 << 10

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-tailSize):]...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = t.buf[:copy(t.buf, t.buf[over:])]
	}
	return len(p), nil
}

// lines returns the last n lines that are not empty, as one line, without control characters.
func (t *tail) lines(n int) string {
	list := t.all()
	return strings.Join(list[max(0, len(list)-n):], " | ")
}

// cause is like lines, but prefers the line that contains one of the marks, with the one before it.
func (t *tail) cause(n int, marks ...string) string {
	list := t.all()
	for i, line := range list {
		for _, mark := range marks {
			if strings.Contains(line, mark) {
				return strings.Join(list[max(0, i-1):i+1], " | ")
			}
		}
	}
	return t.lines(n)
}

func (t *tail) all() []string {
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
