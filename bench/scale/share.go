package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/aethervm/aether/vmm"
)

// share makes copies in this process, and reports how long one more takes where there are n, and what each takes of the
// host.
func (b *bench) share(ctx context.Context, steps []int) (err error) {
	p, err := b.process(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	var there []*vmm.VM
	defer func() {
		for _, vm := range there {
			err = errors.Join(err, vm.Close())
		}
	}()
	begun := shareMemory{}
	for _, n := range steps {
		for len(there) < n-1 {
			_, vm, err := p.fork(ctx)
			if err != nil {
				return err
			}
			there = append(there, vm)
		}
		const tries = 30
		var took, closing []time.Duration
		for i := range tries {
			t, vm, err := p.fork(ctx)
			if err != nil {
				return err
			}
			begin := time.Now()
			if err := vm.Close(); err != nil {
				return err
			}
			took, closing = append(took, t), append(closing, time.Since(begin))
			b.record("one", n, i, ms(t), "ms")
		}
		_, vm, err := p.fork(ctx)
		if err != nil {
			return err
		}
		there = append(there, vm)
		m, err := readShare()
		if err != nil {
			return err
		}
		if begun == (shareMemory{}) {
			begun = m
		}
		b.record("process", n, 0, float64(m.process), "bytes")
		b.record("kernel", n, 0, float64(m.kernel), "bytes")
		per := func(now, then int64) string {
			if n == steps[0] {
				return "0"
			}
			return fmt.Sprint((now - then) >> 10 / int64(n-steps[0]))
		}
		b.print("Share", n, quantile(took, 0.5), "p50-ms", quantile(took, 0.9), "p90-ms", quantile(closing, 0.5), "close-p50-ms",
			m.process>>10, "KiB-process", per(m.process, begun.process), "KiB-process/copy", per(m.kernel, begun.kernel), "KiB-kernel/copy")
	}
	return nil
}

// shareMemory is what this process and the kernel take, in bytes.
type shareMemory struct{ process, kernel int64 }

func readShare() (m shareMemory, err error) {
	runtime.GC()
	debug.FreeOSMemory()
	time.Sleep(time.Second)
	self, err := fields("/proc/self/smaps_rollup")
	if err != nil {
		return m, err
	}
	info, err := fields("/proc/meminfo")
	if err != nil {
		return m, err
	}
	for _, f := range kernelFields() {
		m.kernel += info[f]
	}
	m.process = self["Pss"]
	return m, nil
}

// open counts the entries of a directory of /proc.
func open(dir string) int {
	list, err := os.ReadDir(dir)
	if err != nil {
		return -1
	}
	return len(list)
}
