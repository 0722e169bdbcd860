package lab

import (
	"strings"

	"github.com/aethervm/aether/internal/tail"
)

// tailSize is how much is kept of what the lab's console, QEMU and package tools say.
const tailSize = 16 << 10

// cause returns the line that contains one of the marks, with the one before it, or else the last n
// lines.
func cause(t *tail.Tail, n int, marks ...string) string {
	list := t.Lines()
	for i, line := range list {
		for _, mark := range marks {
			if strings.Contains(line, mark) {
				return tail.Join(list[max(0, i-1) : i+1])
			}
		}
	}
	return t.Last(n)
}
