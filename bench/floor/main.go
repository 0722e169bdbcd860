// Command floor measures what a fork of a virtual machine costs when nothing is done but the calls to
// KVM without which there is none: create a VM, map a memory file privately, restore one vCPU, run it
// to its first exit. What AetherVM does beside that is measured against it, in the same run.
//
// The guest is a few bytes of real-mode code, which every kind of KVM runs. It prints one line of Go
// benchmark text for each fork and each phase.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/aethervm/aether/internal/floor"
)

func main() {
	n := flag.Int("n", 100, "number of forks")
	memory := flag.Int("memory", 256, "memory of the guest in MiB")
	flag.Parse()
	if *n < 1 || *memory < 1 || *memory > 64<<10 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: floor [-n FORKS] [-memory MIB]")
		os.Exit(2)
	}
	if err := measure(*n, *memory); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

func measure(n, memoryMiB int) (err error) {
	runtime.LockOSThread() // as a vCPU's thread is
	t, err := floor.New(memoryMiB << 20)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	var total []time.Duration
	for range n {
		phases, err := t.Fork()
		if err != nil {
			return err
		}
		var sum time.Duration
		for _, p := range phases {
			fmt.Printf("BenchmarkFloor/phase=%s/memory=%dMiB 1 %d ns/op\n", p.Name, memoryMiB, p.Took.Nanoseconds())
			if p.Name != floor.CloseName {
				sum += p.Took
			}
		}
		total = append(total, sum)
		fmt.Printf("BenchmarkFloor/phase=all/memory=%dMiB 1 %d ns/op\n", memoryMiB, sum.Nanoseconds())
	}
	slices.Sort(total)
	fmt.Fprintf(os.Stderr, "floor: %d forks of %d MiB, create to first exit: p50 %v, p99 %v\n",
		n, memoryMiB, total[(n-1)/2], total[(n*99+99)/100-1])
	return nil
}
