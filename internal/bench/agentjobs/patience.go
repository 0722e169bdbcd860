package agentjobs

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// limit bounds one job, the starts of sandboxes aside: how many a job takes is the job's choice, how long one takes the
// system's, and on a host that emulates a processor that may be most of a minute.
const limit = 3 * time.Minute

// patience ends a job that takes too long. Its methods may be called concurrently; a nil one is without end.
type patience struct {
	mu    sync.Mutex
	timer *time.Timer
	end   time.Time
}

// patient is a context that ends, with a cause, when limit has passed. cancel must be called.
func patient(ctx context.Context, limit time.Duration) (_ context.Context, p *patience, cancel func()) {
	ctx, end := context.WithCancelCause(ctx)
	p = &patience{end: time.Now().Add(limit)}
	p.timer = time.AfterFunc(limit, func() { end(fmt.Errorf("not done within %v, the starts of sandboxes aside", limit)) })
	return ctx, p, func() { p.timer.Stop(); end(nil) }
}

// grant gives a job as much time more, unless it has ended.
func (p *patience) grant(more time.Duration) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer.Stop() {
		p.end = p.end.Add(more)
		p.timer.Reset(time.Until(p.end))
	}
}
