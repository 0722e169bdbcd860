package usernet

import (
	"sync"
	"time"
)

const (
	// maxDenied bounds the different flows in the reports of an interval: a guest can ask for thousands,
	// and who is told, in a process of its own perhaps, should not be kept busy by it.
	maxDenied      = 32
	deniedInterval = time.Second
)

// reports tells of denied flows: of each one at once when it is the first of its kind in an interval, and
// of the others, counted, at the interval's end.
type reports struct {
	tell func(Flow) // nil if nobody wants to know

	mu     sync.Mutex
	more   map[Flow]int64 // how many times again in this interval; nil if none has begun
	others int64          // beyond maxDenied
	end    *time.Timer
	closed bool
}

func (r *reports) add(f Flow) {
	if r.tell == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	if r.more == nil {
		r.more = map[Flow]int64{}
		r.end = time.AfterFunc(deniedInterval, r.endInterval)
	}
	_, known := r.more[f]
	switch {
	case known:
		r.more[f]++
	case len(r.more) < maxDenied:
		r.more[f] = 0
		f.Count = 1
		r.tell(f)
	default:
		r.others++
	}
}

func (r *reports) endInterval() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flush()
}

// flush tells what has been counted. The caller holds r.mu.
func (r *reports) flush() {
	for f, n := range r.more {
		if n > 0 {
			f.Count = n
			r.tell(f)
		}
	}
	if r.others > 0 {
		r.tell(Flow{Count: r.others})
	}
	r.more, r.others = nil, 0
}

// close tells what has been counted, and is the end of it.
func (r *reports) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.end != nil {
		r.end.Stop()
	}
	r.flush()
	r.closed = true
}
