package runtime

import (
	"slices"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

const (
	// keptChanges and keptChangeBytes bound what is kept of a comparison with a snapshot for its later parts, which would need the
	// snapshot restored again; the rest is compared when it is asked for.
	keptChanges     = 10 * maxChanges
	keptChangeBytes = 4 << 20
	// keptParts is for how long after it was last asked for.
	keptParts = time.Minute
)

// comparison is what was found by one pass over two sides, from some path on.
type comparison struct {
	a, b    string
	changes []foundChange
	next    string // behind which there may be more; empty if there is none
}

type foundChange struct {
	FileChange
	path string // its bytes
	size int    // of its names
}

// collect takes changes until there are so many, or so many bytes of names.
func (c *comparison) collect(changes, bytes int) func(sandbox.FileChange) error {
	size := 0
	return func(f sandbox.FileChange) error {
		n := sizeOf(f)
		if size += n; len(c.changes) == changes || size > bytes && len(c.changes) > 0 {
			c.next = c.changes[len(c.changes)-1].path
			return errEnough
		}
		c.changes = append(c.changes, foundChange{changeOf(f), f.Path, n})
		return nil
	}
}

// part fills in at most so many changes, from the i-th on.
func (c *comparison) part(res *DiffResult, i, most int) {
	size := 0
	for ; i < len(c.changes); i++ {
		if size += c.changes[i].size; len(res.Changes) == most || size > maxChangeBytes && len(res.Changes) > 0 {
			res.Next = c.changes[i-1].path
			return
		}
		res.Changes = append(res.Changes, c.changes[i].FileChange)
	}
	res.Next = c.next
}

// diffParts keeps the last comparison of a session with a snapshot, for a short time. Its methods may be called concurrently.
type diffParts struct {
	mu    sync.Mutex
	last  *comparison
	timer *time.Timer // forgets it
}

// keep keeps c in place of the one before. It does not change any more.
func (p *diffParts) keep(c *comparison) {
	p.forget()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = c
	p.timer = time.AfterFunc(keptParts, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.last == c {
			p.last, p.timer = nil, nil
		}
	})
}

func (p *diffParts) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
	}
	p.last, p.timer = nil, nil
}

// later answers the request for a later part, if what it asks for is kept.
func (p *diffParts) later(req DiffRequest) (res DiffResult, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.last
	if c == nil || c.a != req.Sandbox || c.b != req.Other {
		return res, false
	}
	i := slices.IndexFunc(c.changes, func(f foundChange) bool { return f.path == req.After })
	if i < 0 || i == len(c.changes)-1 && c.next != "" { // it has not been looked at
		return res, false
	}
	p.timer.Reset(keptParts)
	res = DiffResult{A: c.a, B: c.b, Changes: []FileChange{}}
	c.part(&res, i+1, req.Max)
	return res, true
}
