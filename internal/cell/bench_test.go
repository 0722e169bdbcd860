package cell

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/microguest"
	"github.com/aethervm/aether/internal/smaps"
)

// BenchmarkStart is from the call of Start to a guest that has spoken, and the closing. What is beyond
// the guest's own memory is reported as PSS.
func BenchmarkStart(b *testing.B) {
	needKVM(b)
	kernel := guestFile(b, microguest.Say("up\n"), microguest.Spin())
	var closing time.Duration
	for b.Loop() {
		c, err := Start(b.Context(), Config{ID: testID, Program: program(b), Kernel: kernel, VCPUs: 1, MemoryMiB: 64})
		if err != nil {
			b.Fatal(err)
		}
		waitConsole(b, c, "up")
		begin := time.Now()
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
		closing += time.Since(begin)
	}
	b.ReportMetric(float64(closing.Microseconds())/float64(b.N), "us/close")
}

// TestFootprint bounds what the processes of idle cells take of the host, beyond their guests' memory.
func TestFootprint(t *testing.T) {
	const cells = 4
	var all []*Cell
	for i := range cells {
		c := startGuest(t, func(cfg *Config) { cfg.ID += itoa(i) }, microguest.Say("up\n"), microguest.Spin())
		waitConsole(t, c, "up")
		// A guest that spins would have the next ones wait for a processor.
		if err := c.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	time.Sleep(2 * quietDelay)
	total := 0
	for _, c := range all {
		own, guest := footprint(t, c)
		t.Logf("%d KiB of its own, %d KiB of the guest's memory", own, guest)
		total += own
	}
	const limit = 5 << 10
	if total/cells > limit && !usesCgo() {
		t.Errorf("%d KiB a cell", total/cells)
	}
}

// footprint reads the proportional set size, in KiB, of a cell's process and, apart from that, of its guest's RAM.
func footprint(t testing.TB, c *Cell) (own, guest int) {
	t.Helper()
	ram, known, err := smaps.GuestPSS(c.PID(), int64(c.cfg.MemoryMiB)<<20, 1)
	if err != nil || !known {
		t.Fatalf("the guest's RAM is not found: %v", err)
	}
	guest = int(ram >> 10)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", c.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\nPss:")
	return atoi(strings.Fields(rest)[0]) - guest, guest
}
