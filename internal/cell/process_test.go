package cell

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestParents: the kernel kills a cell when the thread ends that has started it.
func TestParents(t *testing.T) {
	const atOnce = 4
	threads := make([]int, atOnce)
	var all, together sync.WaitGroup
	together.Add(atOnce)
	for i := range threads {
		all.Go(func() {
			onParent(func() {
				threads[i] = unix.Gettid()
				together.Done()
				together.Wait()
			})
		})
	}
	all.Wait()
	seen := map[int]bool{}
	for _, thread := range threads {
		if seen[thread] {
			t.Errorf("thread %d has two starts at one time", thread)
		}
		seen[thread] = true
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", thread)); err != nil {
			t.Errorf("a thread that starts processes is gone: %v", err)
		}
	}
}
