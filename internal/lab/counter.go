package lab

import (
	"context"
	"sync/atomic"
)

// counter counts what is written to it. Its methods may be called concurrently.
type counter struct {
	n     atomic.Int64
	grown chan struct{} // has an element when n has grown
}

func newCounter() *counter { return &counter{grown: make(chan struct{}, 1)} }

func (c *counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	select {
	case c.grown <- struct{}{}:
	default:
	}
	return len(p), nil
}

// await waits for n bytes. It is false if they have not come when ctx ends.
func (c *counter) await(ctx context.Context, n int64) bool {
	for c.n.Load() < n {
		select {
		case <-c.grown:
		case <-ctx.Done():
			return c.n.Load() >= n
		}
	}
	return true
}
