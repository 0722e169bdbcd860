package agentsandbox

import (
	"slices"
	"strings"

	"github.com/aethervm/aether/internal/tail"
)

// TailSize is how much is to be kept of what a guest's kernel says.
const TailSize = 8 << 10

// EndOf returns the last n lines of t, or those from a kernel's panic on.
func EndOf(t *tail.Tail, n int) string {
	list := t.Lines()
	// What follows a panic's first line is a dump of registers.
	from := slices.IndexFunc(list, func(line string) bool { return strings.Contains(line, "Kernel panic") })
	if from < 0 {
		from = max(0, len(list)-n)
	}
	return tail.Join(list[from:min(len(list), from+n)])
}
