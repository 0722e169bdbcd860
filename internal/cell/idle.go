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
)

// idle gives memory that is not in use back to the host when nothing has happened for a while: after boot
// that of loading the kernel, later that of streams. The Go runtime by itself collects only when
// megabytes have been allocated, which a cell without streams never does.
type idle struct {
	timer *time.Timer

	mu   sync.Mutex
	last time.Time // when memory was given back
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
	i.timer.Reset(max(quietDelay, freeInterval-time.Since(i.last)))
}

func (i *idle) free() {
	i.mu.Lock()
	i.last = time.Now()
	i.mu.Unlock()
	runtime.GC() // pooled buffers survive one collection
	debug.FreeOSMemory()
}
