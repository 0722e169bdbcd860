package kvm

import (
	"errors"
	"flag"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
)

var cycles = flag.Int("cycles", 500, "how often TestCycles makes, saves and restores a guest")

// One cycle: make a VM, run it to an exit, save it, go on in another VM, and tear both down. However many
// there are, no descriptor, mapping, thread or memory is left of them.
func TestCycles(t *testing.T) {
	s := openSystem(t)
	indices, err := s.MSRIndices()
	if err != nil {
		t.Fatal(err)
	}
	code := map[uint64][]byte{guestCode: {
		0xe6, reportPort, // out reportPort, al
		0xff, 0xc0, // inc eax
		0xe6, reportPort, // out reportPort, al
	}}
	for range 50 { // let the runtime make its threads and its heap
		cycle(t, s, indices, code)
	}
	before := usage(t)
	for range *cycles {
		cycle(t, s, indices, code)
	}
	after := usage(t)
	t.Logf("%d cycles: before %+v, after %+v", *cycles, before, after)
	if after.files != before.files || after.vcpuPages != before.vcpuPages {
		t.Errorf("before %+v, after %+v", before, after)
	}
	// The runtime makes a thread or a mapping now and then, whatever the number of cycles. One that is left of
	// every thirtieth cycle would be seen.
	const few = 16
	if after.threads > before.threads+few || after.mappings > before.mappings+few {
		t.Errorf("before %+v, after %+v", before, after)
	}
	// The runtime grows by about a MiB in the first hundreds of cycles and then no more. A page left of every
	// cycle would be 2 MiB in 500 of them. The race detector's own memory grows with what it has seen.
	if grown := after.rss - before.rss; !raceDetector && grown > 2<<20 {
		t.Errorf("resident memory has grown by %d KiB", grown>>10)
	}
}

func cycle(t *testing.T, s *System, indices []uint32, code map[uint64][]byte) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	withChip := func(v *VM) error { return v.EnableSplitIRQChip(24) }
	step := func(g *microGuest, want byte) {
		t.Helper()
		exit, err := g.vcpu.runBounded(t.Context(), checkLimit)
		if err != nil || exit.Reason != ExitIO || len(exit.IO.Data) != 1 || exit.IO.Data[0] != want {
			t.Fatalf("exit %+v, %v; want %d", exit, err, want)
		}
	}
	first, err := newMicroGuestWith(s, code, withChip)
	check(err)
	check(first.longMode(3, Regs{RAX: 41}))
	step(first, 41)
	first.vcpu.Kick() // to complete the exit
	if _, err := first.vcpu.Run(); !errors.Is(err, ErrKicked) {
		t.Fatal(err)
	}
	state, err := first.vcpu.State(indices)
	check(err)
	second, err := newMicroGuestWith(s, nil, withChip)
	check(err)
	copy(second.mem, first.mem)
	check(first.close())
	check(second.vcpu.SetState(state))
	step(second, 42)
	check(second.close())
}

// resources are what a process holds; rss in bytes.
type resources struct {
	files, vcpuPages, threads, mappings, rss int
}

func usage(t *testing.T) resources {
	t.Helper()
	debug.FreeOSMemory() // what the heap holds but does not use is no leak
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	field := func(name string) int {
		_, rest, _ := strings.Cut(string(status), "\n"+name+":")
		line, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(line), " kB"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return n
	}
	return resources{
		files: openFiles(t), vcpuPages: strings.Count(string(maps), "kvm-vcpu"),
		threads: field("Threads"), mappings: strings.Count(string(maps), "\n"), rss: field("VmRSS") << 10,
	}
}
