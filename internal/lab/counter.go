package lab

import (
	"context"
	"sync"
	"sync/atomic"
)

// counter counts what is written to it. Its methods may be called concurrently.
type counter struct {
	n     atomic.Int64
	grown chan struct{} // has an element when n has grown
	ended chan struct{}
	once  sync.Once
}

func newCounter() *counter {
	return &counter{grown: make(chan struct{}, 1), ended: make(chan struct{})}
}

func (c *counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	select {
	case c.grown <- struct{}{}:
	default:
	}
	return len(p), nil
}

// end says that nothing more is to be waited for.
func (c *counter) end() { c.once.Do(func() { close(c.ended) }) }

// await waits for n bytes. It is false if they have not come when ctx ends, or when end is called.
func (c *counter) await(ctx context.Context, n int64) bool {
	for c.n.Load() < n {
		select {
		case <-c.grown:
		case <-ctx.Done():
			return c.n.Load() >= n
		case <-c.ended:
			return c.n.Load() >= n
		}
	}
	return true
}
