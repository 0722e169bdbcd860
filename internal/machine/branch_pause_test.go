package machine

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guestmem"
)

// ticker is a guest that writes to R13 pages from R14 on, and then looks at the clock for ever. In the page at R15 it keeps
// whether it has written, the longest time between two looks, and the last.
var ticker = []byte{
	0x4c, 0x89, 0xe9, 0x4c, 0x89, 0xf7, // mov rcx, r13; mov rdi, r14
	0x48, 0x85, 0xc9, 0x74, 0x0f, // test rcx, rcx; jz over the loop
	0x48, 0x89, 0x0f, // mov [rdi], rcx
	0x48, 0x81, 0xc7, 0, 0x10, 0, 0, // add rdi, 4096
	0x48, 0xff, 0xc9, 0xeb, 0xec, // dec rcx; jmp to the test
	0x49, 0xc7, 0x47, tickerDone, 1, 0, 0, 0, // mov qword [r15 + tickerDone], 1
	0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, // rdtsc; shl rdx, 32; or rax, rdx
	0x48, 0x89, 0xc3, 0x4c, 0x29, 0xdb, 0x49, 0x89, 0xc3, // mov rbx, rax; sub rbx, r11; mov r11, rax
	0x49, 0x89, 0x47, tickerLast, // mov [r15 + tickerLast], rax
	0x49, 0x3b, 0x5f, tickerGap, 0x76, 0xe4, // cmp rbx, [r15 + tickerGap]; jbe to rdtsc
	0x49, 0x89, 0x5f, tickerGap, 0xeb, 0xde, // mov [r15 + tickerGap], rbx; jmp to rdtsc
}

const (
	tickerDone, tickerGap, tickerLast = 8, 16, 24

	tickerMemory = 96 << 20
	tickerArea   = 16 << 20
)

// BenchmarkBranchPause is how long a guest stands still for a branch, as a guest that looks at the clock all the time sees it,
// by how much it has written since the last branch, and how long it takes to copy as much once.
func BenchmarkBranchPause(b *testing.B) {
	for _, mib := range []int{0, 4, 16, 64} {
		b.Run(fmt.Sprintf("written=%dMiB", mib), func(b *testing.B) { benchmarkBranchPause(b, mib<<20) })
	}
}

func benchmarkBranchPause(b *testing.B, written int) {
	f := newFamily(b)
	mem := newMemory(b, tickerMemory)
	cpu := loadMicro(b, mem, ticker...)
	m, err := New(Config{System: f.system, Memory: mem, VCPUs: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	load := func(at uint64) uint64 {
		v, err := mem.LoadUint64(microData + at)
		if err != nil {
			b.Fatal(err)
		}
		return v
	}
	clear := func(at uint64) {
		if err := mem.WriteAt(make([]byte, 8), microData+at); err != nil {
			b.Fatal(err)
		}
	}
	if err := m.Start(cpu); err != nil {
		b.Fatal(err)
	}
	m.Pause()
	again := func() {
		clear(tickerDone)
		r, err := m.vcpus[0].Regs()
		if err != nil {
			b.Fatal(err)
		}
		r.RIP, r.R13, r.R14, r.R15 = microCode, uint64(written/guestmem.PageSize), tickerArea, microData
		if err := m.vcpus[0].SetRegs(r); err != nil {
			b.Fatal(err)
		}
		m.Resume()
		for deadline := time.Now().Add(endTimeout); load(tickerDone) == 0; time.Sleep(50 * time.Microsecond) {
			if time.Now().After(deadline) {
				b.Fatal("the guest does not come to its ticker")
			}
		}
	}
	branch := func() {
		m.Pause()
		_, err := m.State(f.msrs)
		if err == nil {
			err = mem.Split(f.pagemap)
		}
		m.Resume()
		if err != nil {
			b.Fatal(err)
		}
		image, err := mem.Image(1)
		if err == nil {
			err = image.Close()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	ticks := func() { // waits until the guest runs
		for last := load(tickerLast); load(tickerLast) == last; time.Sleep(50 * time.Microsecond) {
		}
	}
	again()
	branch() // the first takes all that the guest has ever written
	ticks()
	from, begin := load(tickerLast), time.Now()
	time.Sleep(100 * time.Millisecond)
	frequency := float64(load(tickerLast)-from) / float64(time.Since(begin)) // counts a nanosecond
	source := make([]byte, max(written, guestmem.PageSize))
	for i := range source {
		source[i] = byte(i)
	}
	var pauses, copies []time.Duration
	for b.Loop() {
		b.StopTimer()
		m.Pause()
		again()
		clear(tickerGap)
		time.Sleep(time.Millisecond)
		b.StartTimer()
		branch()
		b.StopTimer()
		ticks()
		time.Sleep(200 * time.Microsecond)
		pauses = append(pauses, time.Duration(float64(load(tickerGap))/frequency))
		m.Pause() // the guest would take the processor that copies
		if err := mem.Settle(); err != nil {
			b.Fatal(err)
		}
		copies = append(copies, copyOnce(b, source[:written]))
		m.Resume()
		b.StartTimer()
	}
	p50 := func(all []time.Duration) float64 {
		slices.Sort(all)
		return float64(all[len(all)/2].Microseconds())
	}
	b.ReportMetric(p50(pauses), "pause-p50-us")
	b.ReportMetric(p50(copies), "copy-p50-us")
}

// copyOnce is how long it takes to copy bytes to a new file in memory.
func copyOnce(b *testing.B, p []byte) time.Duration {
	b.Helper()
	begin := time.Now()
	fd, err := unix.MemfdCreate("copy", unix.MFD_CLOEXEC)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if err != nil {
			b.Fatal(err)
		}
		p = p[n:]
	}
	return time.Since(begin)
}
