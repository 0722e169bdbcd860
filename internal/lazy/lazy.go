// Package lazy makes values when they are first asked for.
package lazy

import (
	"context"
	"sync"
)

// Value is made when it is first asked for. A failure is not kept: the next caller tries again.
// Callers that come meanwhile wait, no longer than their contexts. The zero value is ready.
type Value[T any] struct {
	mu     sync.Mutex
	made   bool
	value  T
	making chan struct{} // closed when the attempt in progress has ended; nil if there is none
}

// Get returns the value, which it makes with f if there is none.
func (v *Value[T]) Get(ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	for {
		v.mu.Lock()
		if v.made {
			defer v.mu.Unlock()
			return v.value, nil
		}
		if v.making == nil {
			break
		}
		making := v.making
		v.mu.Unlock()
		select {
		case <-making:
		case <-ctx.Done():
			var none T
			return none, ctx.Err()
		}
	}
	done := make(chan struct{})
	v.making = done
	v.mu.Unlock()
	value, err := f(ctx)

	v.mu.Lock()
	defer v.mu.Unlock()
	if err == nil {
		v.value, v.made = value, true
	}
	v.making = nil
	close(done)
	return value, err
}

// Take returns the value if there is one and forgets it.
func (v *Value[T]) Take() (T, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	value, made := v.value, v.made
	var none T
	v.value, v.made = none, false
	return value, made
}
