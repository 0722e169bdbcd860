package qemu

import (
	"context"
	"sync"
)

// once makes a value when it is first asked for. A failure is not kept: the next caller tries
// again. Callers that come meanwhile wait, no longer than their contexts.
type once[T any] struct {
	mu     sync.Mutex
	made   bool
	value  T
	making chan struct{} // closed when the attempt in progress has ended; nil if there is none
}

func (o *once[T]) get(ctx context.Context, make func(context.Context) (T, error)) (T, error) {
	for {
		o.mu.Lock()
		if o.made {
			defer o.mu.Unlock()
			return o.value, nil
		}
		if o.making == nil {
			break
		}
		making := o.making
		o.mu.Unlock()
		select {
		case <-making:
		case <-ctx.Done():
			var none T
			return none, ctx.Err()
		}
	}
	done := newSignal()
	o.making = done
	o.mu.Unlock()
	value, err := make(ctx)

	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil {
		o.value, o.made = value, true
	}
	o.making = nil
	close(done)
	return value, err
}

// take returns the value if there is one and forgets it.
func (o *once[T]) take() (T, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	value, made := o.value, o.made
	var none T
	o.value, o.made = none, false
	return value, made
}

func newSignal() chan struct{} { return make(chan struct{}) }
