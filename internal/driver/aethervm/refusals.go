package aethervm

import (
	"slices"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// maxRefusals bounds the entries of a record: a guest chooses what it is refused.
const maxRefusals = 256

// refusals is the record of what a guest was refused, with an entry a destination. Its methods may be
// called concurrently.
type refusals struct {
	mu      sync.Mutex
	entries map[destination]*sandbox.RefusedFlow
	omitted int64
}

type destination struct{ protocol, address, name string }

// add counts a refusal, of f.Count flows, at the time now. The entry whose last refusal is the longest ago
// makes room for a new one.
func (r *refusals) add(f sandbox.RefusedFlow, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.Protocol == "" { // of many kinds
		r.omitted += f.Count
		return
	}
	to := destination{f.Protocol, f.Address, f.Name}
	if e := r.entries[to]; e != nil {
		e.Count, e.Last = e.Count+f.Count, now
		return
	}
	if r.entries == nil {
		r.entries = map[destination]*sandbox.RefusedFlow{}
	}
	if len(r.entries) >= maxRefusals {
		var oldest destination
		for to, e := range r.entries {
			if o := r.entries[oldest]; o == nil || e.Last.Before(o.Last) {
				oldest = to
			}
		}
		r.omitted += r.entries[oldest].Count
		delete(r.entries, oldest)
	}
	f.First, f.Last = now, now
	r.entries[to] = &f
}

// log returns a copy.
func (r *refusals) log() sandbox.EgressLog {
	r.mu.Lock()
	defer r.mu.Unlock()
	log := sandbox.EgressLog{Refused: []sandbox.RefusedFlow{}, Omitted: r.omitted}
	for _, e := range r.entries {
		log.Refused = append(log.Refused, *e)
	}
	slices.SortFunc(log.Refused, func(a, b sandbox.RefusedFlow) int { return a.Last.Compare(b.Last) })
	return log
}
