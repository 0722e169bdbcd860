package boot

import (
	"testing"

	"github.com/aethervm/aether/internal/guestmem"
)

func TestFit(t *testing.T) {
	kernel := func(gpa uint64) *Kernel {
		return &Kernel{
			segments: []segment{{mem: guestmem.Range{GPA: gpa, Size: 8 << 20}}, {mem: guestmem.Range{GPA: gpa + 8<<20, Size: 4 << 20}}},
			span:     guestmem.Range{GPA: gpa, Size: 12 << 20},
			entry:    gpa + 0x40,
		}
	}
	for name, c := range map[string]struct {
		kernel    *Kernel
		ram, want uint64
	}{
		"small":          {kernel(16 << 20), 64 << 20, 2 << 20},
		"large enough":   {kernel(16 << 20), 128 << 20, 16 << 20},
		"lowest already": {kernel(2 << 20), 64 << 20, 2 << 20},
		"below that":     {kernel(1 << 20), 64 << 20, 1 << 20},
		"odd place":      {kernel(16<<20 + 4096), 64 << 20, 16<<20 + 4096},
	} {
		c.kernel.Fit(c.ram)
		got := []uint64{c.kernel.Span().GPA, c.kernel.segments[0].mem.GPA, c.kernel.segments[1].mem.GPA - 8<<20, c.kernel.entry - 0x40}
		for i, gpa := range got {
			if gpa != c.want {
				t.Errorf("%s: %d: at %#x, want %#x", name, i, gpa, c.want)
			}
		}
	}
	// It would unpack itself to where it was linked for.
	unpacks := kernel(16 << 20)
	unpacks.header = make([]byte, 1)
	if unpacks.Fit(64 << 20); unpacks.Span().GPA != 16<<20 {
		t.Errorf("moved to %#x", unpacks.Span().GPA)
	}
}
