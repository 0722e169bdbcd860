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
	// secondFree is after how many beginnings and ends memory is given back for the second time. A collection costs memory
	// itself, up to 300 KiB here: the runtime has lists of each kind of object that there is, one set for the collections with
	// even numbers and one for the others. A cell that has little to do is better off without the second.
	secondFree = 64
)

// idle gives memory that is not in use back to the host when nothing has happened for a while: after boot
// that of loading the kernel, later that of streams. The Go runtime by itself collects only when
// megabytes have been allocated, which a cell without streams never does.
type idle struct {
	timer *time.Timer

	mu    sync.Mutex
	last  time.Time // when memory was given back
	times int       // how often
	begun int       // beginnings and ends since
}

// newIdle starts the waiting.
func newIdle() *idle {
	i := &idle{}
	i.timer = time.AfterFunc(quietDelay, i.free)
	return i
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
	times := i.times
	if times == 1 && i.begun < secondFree {
		i.mu.Unlock()
		return
	}
	i.last, i.begun = time.Now(), 0
	i.times++
	i.mu.Unlock()
	if times > 0 {
		runtime.GC() // pooled buffers survive one collection
	}
	debug.FreeOSMemory()
}
