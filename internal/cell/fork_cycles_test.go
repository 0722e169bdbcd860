package cell

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/testenv"
)

// forkCycles is how many copies TestForkCycles makes: AETHER_TEST_ROUNDS, or a few.
func forkCycles(t testing.TB) int {
	t.Helper()
	return testenv.Number(t, "AETHER_TEST_ROUNDS", 100)
}

// kib reads a line "NAME: N kB" of a file of /proc.
func kib(t testing.TB, file, name string) int {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut("\n"+string(text), "\n"+name+":")
	if !ok {
		t.Fatalf("%s has no %s", file, name)
	}
	return atoi(strings.Fields(rest)[0])
}

// TestForkCycles: copies that are made, used and closed, one after the other, leave nothing: files, mappings, threads, memory,
// control groups. What the kernel has for all of this host is only logged, since others use it too.
func TestForkCycles(t *testing.T) {
	parent := startGuest(t, nil, chatter())
	waitConsole(t, parent, "on")
	branch, err := parent.Branch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer branch.Close()
	if err := parent.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	cycle := func() {
		said := make(chan struct{}, 1)
		c, err := Start(t.Context(), Config{ID: testID + "-1", Program: program(t), From: branch, Console: signalWriter(said)})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-said:
		case <-time.After(time.Minute):
			t.Fatalf("a copy says nothing: %v", c.End())
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	type holdings struct{ files, mappings, threads, rss, slab int }
	holds := func() holdings {
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return holdings{count(t, "/proc/self/fd"), bytes.Count(maps, []byte("\n")), count(t, "/proc/self/task"),
			kib(t, "/proc/self/smaps_rollup", "Rss"), kib(t, "/proc/meminfo", "Slab")}
	}
	for range 20 {
		cycle()
	}
	before, begin := holds(), time.Now()
	n := forkCycles(t)
	for range n {
		cycle()
	}
	after := holds()
	t.Logf("%d copies in %v; before %+v, after %+v", n, time.Since(begin).Round(time.Millisecond), before, after)
	// The runtime adds a thread or an arena now and then; a leak of one a copy would be n.
	const few, fewMappings, growthKiB = 5, 40, 8 << 10
	if after.files > before.files || after.threads > before.threads+few || after.mappings > before.mappings+fewMappings || after.rss > before.rss+growthKiB {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if err := parent.Close(); err != nil {
		t.Error(err)
	}
	noLeftovers(t)
}
