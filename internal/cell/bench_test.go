package cell

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// BenchmarkStart is from the call of Start to a guest that has spoken, and the closing. What is beyond
// the guest's own memory is reported as PSS.
func BenchmarkStart(b *testing.B) {
	needKVM(b)
	kernel := guestFile(b, say("up\n"), spin)
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
		c := startGuest(t, func(cfg *Config) { cfg.ID += itoa(i) }, say("up\n"), spin)
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
		own, guest := footprint(t, c.PID())
		t.Logf("%d KiB of its own, %d KiB of the guest's memory", own, guest)
		total += own
	}
	const limit = 5 << 10
	if total/cells > limit && !usesCgo() {
		t.Errorf("%d KiB a cell", total/cells)
	}
}

// footprint reads the proportional set size, in KiB, of a process and of its guest's memory.
func footprint(t testing.TB, pid int) (own, guest int) {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	isGuest := false
	name := ""
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) > 0 && !strings.HasSuffix(fields[0], ":"):
			isGuest = strings.Contains(lines.Text(), "aether-guest-memory")
			name = lines.Text()
		case len(fields) == 3 && fields[0] == "Pss:":
			if isGuest {
				guest += atoi(fields[1])
			} else {
				own += atoi(fields[1])
				if testing.Verbose() && atoi(fields[1]) > 200 {
					t.Logf("%6d KiB %s", atoi(fields[1]), name)
				}
			}
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return own, guest
}
