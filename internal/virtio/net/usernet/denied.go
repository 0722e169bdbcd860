package usernet

import (
	"sync"
	"time"
)

// maxDenied bounds the reports of what was not allowed, a second: a guest can ask for thousands, and
// who is told, in a process of its own perhaps, should not be kept busy by it.
const maxDenied = 32

// reports counts the reports of the current second.
type reports struct {
	mu    sync.Mutex
	since time.Time
	n     int
}

// another tells whether one more may be made.
func (r *reports) another(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.since) >= time.Second {
		r.since, r.n = now, 0
	}
	r.n++
	return r.n <= maxDenied
}

func (n *Network) denied(f Flow) {
	if n.cfg.Denied != nil && n.reports.another(time.Now()) {
		n.cfg.Denied(f)
	}
}
