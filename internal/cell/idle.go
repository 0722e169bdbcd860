package cell

import (
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// quietDelay is how long nothing must have begun or ended before the cell gives memory back, so that
	// this does not come between two streams that follow each other.
	quietDelay = 300 * time.Millisecond
	// freeInterval is the least time from one giving back to the next: it takes a millisecond of a
	// processor, and has the next stream fault its memory in again.
	freeInterval = 5 * time.Second
	// many is how many beginnings and ends there must have been for a collection to be worth its own memory. The first one costs
	// 200 KiB here: the runtime has lists of each kind of object that there is, one set for the collections with even
	// numbers and one for the others, and collects with threads and stacks of its own. From then on it collects every two
	// minutes, too. A cell that has little to do is better off without any, and one that has only loaded a kernel without the second.
	many = 64
)

// idle gives memory that is not in use back to the host when nothing has happened for a while: after boot
// that of loading the kernel, later that of streams. The Go runtime by itself collects only when
// megabytes have been allocated, which a cell without streams never does.
type idle struct {
	timer *time.Timer

	mu    sync.Mutex
	last  time.Time // when memory was given back
	begun int       // beginnings and ends since
	need  int       // how many of them there must be
	light bool      // it is the first time, and that of loading the kernel: there are no buffers of streams
}

// newIdle returns one that waits for the first beginning.
func newIdle() *idle {
	i := &idle{need: many}
	i.timer = time.AfterFunc(time.Hour, i.free)
	i.timer.Stop()
	return i
}

// loaded tells that a kernel has been loaded, which leaves much behind.
func (i *idle) loaded() {
	i.mu.Lock()
	i.need, i.light = 1, true
	i.mu.Unlock()
	i.busy()
}

// busy has the waiting begin anew. It is cheap, and may be called concurrently.
func (i *idle) busy() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.begun++
	i.timer.Reset(max(quietDelay, freeInterval-time.Since(i.last)))
}

func (i *idle) free() {
	i.mu.Lock()
	if i.begun < i.need {
		i.mu.Unlock()
		return
	}
	light := i.light
	i.last, i.begun, i.need, i.light = time.Now(), 0, 1, false
	if light {
		i.need = many
	}
	i.mu.Unlock()
	if !light {
		runtime.GC() // pooled buffers survive one collection
	}
	debug.FreeOSMemory()
}
