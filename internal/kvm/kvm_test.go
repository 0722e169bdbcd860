package kvm

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/testenv"
)

func openSystem(t testing.TB) *System {
	t.Helper()
	s, err := Open()
	if err != nil {
		testenv.Require(t, "KVM", err.Error())
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newGuest(t testing.TB, s *System, code ...byte) *microGuest {
	t.Helper()
	g, err := newMicroGuest(s, map[uint64][]byte{guestCode: code})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// spin is a guest that never exits by itself: jmp to itself.
var spin = []byte{0xeb, 0xfe}

func TestMicroGuest(t *testing.T) {
	s := openSystem(t)
	// Ring 3 runs on the processor on every kind of KVM: add two registers, report the sum.
	g := newGuest(t, s,
		0x48, 0x01, 0xd8, // add rax, rbx
		0xe7, reportPort, // out reportPort, eax
	)
	if err := g.longMode(3, Regs{RAX: 40, RBX: 2}); err != nil {
		t.Fatal(err)
	}
	exit, err := g.vcpu.runBounded(t.Context(), checkLimit)
	if err != nil {
		t.Fatal(err)
	}
	if exit.Reason != ExitIO || exit.IO.Size != 4 || string(exit.IO.Data) != "\x2a\x00\x00\x00" {
		t.Fatalf("exit %+v", exit)
	}
	regs, err := g.vcpu.Regs()
	if err != nil || regs.RAX != 42 {
		t.Fatalf("registers %+v, %v", regs, err)
	}
}

func TestMMIOExit(t *testing.T) {
	g := newGuest(t, openSystem(t), 0x88, 0x07) // mov [rdi], al
	const hole = guestMemory + 0x123            // mapped by the guest's tables, without memory
	if err := g.longMode(3, Regs{RAX: 0x77, RDI: hole}); err != nil {
		t.Fatal(err)
	}
	exit, err := g.vcpu.runBounded(t.Context(), checkLimit)
	if err != nil {
		t.Fatal(err)
	}
	if exit.Reason != ExitMMIO || exit.MMIO.Addr != hole || !exit.MMIO.Write || exit.MMIO.Len != 1 || exit.MMIO.Data[0] != 0x77 {
		t.Fatalf("exit %+v", exit)
	}
}

func TestKick(t *testing.T) {
	g := newGuest(t, openSystem(t), spin...)
	if err := g.longMode(3, Regs{}); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		go func() {
			time.Sleep(time.Duration(i%5) * 200 * time.Microsecond) // before, at and after the entry
			g.vcpu.Kick()
		}()
		if _, err := g.vcpu.Run(); !errors.Is(err, ErrKicked) {
			t.Fatalf("round %d: %v", i, err)
		}
	}
	g.vcpu.Kick()
	g.vcpu.Kick()
	if _, err := g.vcpu.Run(); !errors.Is(err, ErrKicked) {
		t.Fatalf("kicked before Run: %v", err)
	}
	// Two kicks were one: the guest now runs until the limit.
	if _, err := g.vcpu.runBounded(t.Context(), 20*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("after the kick: %v", err)
	}
}

func TestCloseDuringRun(t *testing.T) {
	g := newGuest(t, openSystem(t), spin...)
	if err := g.longMode(3, Regs{}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := g.vcpu.Run()
		ended <- err
	}()
	time.Sleep(5 * time.Millisecond)
	if err := g.vcpu.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrKicked) && !errors.Is(err, os.ErrClosed) {
		t.Fatalf("Run ended with %v", err)
	}
	g.vcpu.Kick() // harmless after Close
	if _, err := g.vcpu.Run(); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("Run after Close: %v", err)
	}
	if _, err := g.vcpu.Regs(); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("Regs after Close: %v", err)
	}
}

func TestNothingLeaks(t *testing.T) {
	s := openSystem(t)
	cycle := func() {
		g, err := newMicroGuest(s, map[uint64][]byte{guestCode: report})
		if err != nil {
			t.Fatal(err)
		}
		if err := g.longMode(3, Regs{}); err != nil {
			t.Fatal(err)
		}
		if err := g.expectReport(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := g.close(); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 { // let the runtime make its threads
		cycle()
	}
	fds, maps, space := openFiles(t), vcpuMappings(t), addressSpace(t)
	cycles := 1000
	if testing.Short() {
		cycles = 100
	}
	for range cycles {
		cycle()
	}
	if n := openFiles(t); n != fds {
		t.Errorf("%d open files, %d before", n, fds)
	}
	if n := vcpuMappings(t); n != maps {
		t.Errorf("%d mappings of vCPUs, %d before", n, maps)
	}
	// Go's heap may have grown by a little; the memory of a quarter of the guests is a leak.
	if grown := addressSpace(t) - space; grown > cycles*guestMemory/4 {
		t.Errorf("the address space has grown by %d MiB", grown>>20)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// vcpuMappings counts the pages shared with vCPUs.
func vcpuMappings(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(maps), "kvm-vcpu")
}

// addressSpace is the size of all mappings in bytes.
func addressSpace(t *testing.T) int {
	t.Helper()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, _, _ := strings.Cut(string(statm), " ")
	n, err := strconv.Atoi(pages)
	if err != nil {
		t.Fatal(err)
	}
	return n * os.Getpagesize()
}

// TestIoctlSurvivesStackMoves reads registers into variables on stacks that grow all the time.
func TestIoctlSurvivesStackMoves(t *testing.T) {
	s := openSystem(t)
	g := newGuest(t, s)
	if err := g.longMode(3, Regs{R15: 0xfeedface}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for range 4 {
		wg.Go(func() {
			for range 2000 {
				if got := deepRead(t, g.vcpu, 0); got != 0xfeedface {
					t.Errorf("R15 is %#x", got)
					return
				}
			}
		})
	}
}

// deepRead reads R15 from a goroutine whose stack starts small, so that it moves around the call.
func deepRead(t *testing.T, c *VCPU, depth int) (r15 uint64) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		var grow func(int) uint64
		grow = func(n int) uint64 {
			var pad [256]byte
			if n > 0 {
				r := grow(n - 1)
				runtime.KeepAlive(&pad)
				return r
			}
			regs, err := c.Regs()
			if err != nil {
				t.Error(err)
			}
			return regs.R15
		}
		r15 = grow(depth + 8)
	}()
	<-done
	return r15
}

func TestProbe(t *testing.T) {
	openSystem(t)
	start := time.Now()
	r := probe(t.Context())
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("the probe took %v", d)
	}
	for _, c := range r.Checks {
		t.Logf("%-20s pass=%v %s", c.Name, c.Pass, c.Detail)
	}
	if len(r.Checks) != len(checks) {
		t.Fatalf("%d checks, want %d", len(r.Checks), len(checks))
	}
	if !r.Checks[1].Pass || !r.UserMode {
		t.Error("micro-guests do not run")
	}
	failed := false
	for i, c := range r.Checks {
		failed = failed || checks[i].needed && !c.Pass
	}
	if r.Real() == failed {
		t.Errorf("state %q, but a needed check failed: %v", r.State, failed)
	}
	if !r.Real() && (r.Reason == "" || r.Remedy == "") {
		t.Errorf("no reason or remedy: %+v", r)
	}
	if again := probe(t.Context()); again.State != r.State {
		t.Errorf("the second probe says %q, the first %q", again.State, r.State)
	}
}

func TestProbeWithDeadContext(t *testing.T) {
	openSystem(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	known.Lock()
	had := known.reality
	known.reality = nil
	known.Unlock()
	t.Cleanup(func() { known.reality = had })
	if _, err := Probe(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Probe: %v", err)
	}
	if known.reality != nil {
		t.Fatal("an answer that was cut short was kept")
	}
	if r, err := Probe(t.Context()); err != nil || len(r.Checks) != len(checks) {
		t.Fatalf("Probe: %+v, %v", r, err)
	}
}

// BenchmarkCreateRunClose is one micro-guest from nothing to its first exit and away again.
func BenchmarkCreateRunClose(b *testing.B) {
	s := openSystem(b)
	for b.Loop() {
		g, err := newMicroGuest(s, map[uint64][]byte{guestCode: report})
		if err != nil {
			b.Fatal(err)
		}
		if err := g.longMode(3, Regs{}); err != nil {
			b.Fatal(err)
		}
		if err := g.expectReport(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := g.close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExit is one port write of the guest: a round trip to user space and back.
func BenchmarkExit(b *testing.B) {
	g := newGuest(b, openSystem(b),
		0xe6, reportPort, // out reportPort, al
		0xeb, 0xfc, // jmp back
	)
	if err := g.longMode(3, Regs{}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := g.vcpu.Run(); err != nil {
			b.Fatal(err)
		}
	}
}
