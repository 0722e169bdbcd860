package machine

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/kvm"
)

// toucher is a guest that uses R13 pages from R14 on, at a distance of R12, says so in the page at R15, and halts.
func toucher(write bool) []byte {
	use := byte(0x39) // cmp [rdi], rcx
	if write {
		use = 0x89 // mov [rdi], rcx
	}
	return []byte{
		0x4c, 0x89, 0xe9, 0x4c, 0x89, 0xf7, // mov rcx, r13; mov rdi, r14
		0x48, use, 0x0f, 0x4c, 0x01, 0xe7, // use; add rdi, r12
		0x48, 0xff, 0xc9, 0x75, 0xf5, // dec rcx; jnz to the use
		0x49, 0xc7, 0x47, tickerDone, 1, 0, 0, 0, // mov qword [r15 + tickerDone], 1
		0xf4, 0xeb, 0xfd, // hlt, for ever
	}
}

// BenchmarkFirstTouches is how long a copy takes, from the moment at which it is whole, until its guest has used so many pages
// for the first time: by itself, with the pages mapped ahead on the host, and with the guest's page tables filled as well.
func BenchmarkFirstTouches(b *testing.B) {
	for _, write := range []bool{false, true} {
		for _, distance := range []int{1, 16} {
			for _, way := range []string{"none", "host", "guest"} {
				b.Run(fmt.Sprintf("write=%v/distance=%d/ahead=%s", write, distance, way), func(b *testing.B) {
					benchmarkFirstTouches(b, write, distance, way)
				})
			}
		}
	}
}

func benchmarkFirstTouches(b *testing.B, write bool, distance int, way string) {
	const pages = 500
	f := newFamily(b)
	mem := newMemory(b, tickerMemory)
	cpu := loadMicro(b, mem, ticker...)
	m, err := New(Config{System: f.system, Memory: mem, VCPUs: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	if has, err := m.vm.Check(kvm.CapPreFaultMemory); way == "guest" && (err != nil || has == 0) {
		b.Skip("this kernel has no KVM_PRE_FAULT_MEMORY")
	}
	if err := m.Start(cpu); err != nil {
		b.Fatal(err)
	}
	m.Pause()
	all := make([]byte, pages*distance*guestmem.PageSize)
	for i := range all {
		all[i] = byte(i)
	}
	if err := mem.WriteAt(all, tickerArea); err != nil {
		b.Fatal(err)
	}
	if err := mem.WriteAt(toucher(write), microCode); err != nil {
		b.Fatal(err)
	}
	image, s := f.branch(b, m)
	r := &s.VCPUs[0].Regs
	r.RIP, r.R12, r.R13, r.R14, r.R15 = microCode, uint64(distance)*guestmem.PageSize, pages, tickerArea, microData
	var list []guestmem.Touched
	for i := range uint64(pages) {
		list = append(list, guestmem.Touched{RAM: tickerArea + i*r.R12, Size: guestmem.PageSize, Written: write})
	}
	if distance == 1 {
		list = []guestmem.Touched{{RAM: tickerArea, Size: pages * guestmem.PageSize, Written: write}}
	}
	var took, ahead []time.Duration
	for b.Loop() {
		b.StopTimer()
		one := f.copy(b, image, s)
		b.StartTimer()
		begin := time.Now()
		if way != "none" {
			one.mem.Prefetch(list)
		}
		for _, t := range list {
			for done := uint64(0); way == "guest" && done < t.Size; {
				n, err := one.vcpus[0].PreFault(t.RAM+done, t.Size-done)
				if err != nil {
					b.Fatal(err)
				}
				done += n
			}
		}
		ahead = append(ahead, time.Since(begin))
		one.Resume()
		for {
			if v, err := one.mem.LoadUint64(microData + tickerDone); err != nil {
				b.Fatal(err)
			} else if v != 0 {
				break
			}
			time.Sleep(20 * time.Microsecond)
		}
		took = append(took, time.Since(begin))
		b.StopTimer()
		if err := one.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	slices.Sort(took)
	slices.Sort(ahead)
	b.ReportMetric(float64(ahead[len(ahead)/2].Nanoseconds())/pages, "ahead-ns/page")
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/pages, "all-ns/page")
}
