// Package keeper keeps what a driver has on its host from the first sandbox to Close: a lease, or
// more that goes with one, and the sandboxes that are open.
package keeper

import (
	"context"
	"errors"
	"sync"

	"github.com/aethervm/aether/sandbox"
)

// Keeper keeps the sandboxes of one driver and what they need on the host, an O. Its methods may be
// called concurrently.
type Keeper[O any] struct {
	system  string
	acquire func() (O, error)
	release func(O) error

	// alive ends when Close begins.
	alive context.Context
	end   context.CancelFunc
	// starting counts sandboxes in the making.
	starting sync.WaitGroup

	mu     sync.Mutex
	closed bool
	has    bool // owned
	owned  O    // acquired for the first sandbox
	open   map[string]sandbox.Sandbox
}

// New returns a keeper for a system. It acquires what it needs for the first sandbox, and releases it
// when all of them are closed.
func New[O any](system string, acquire func() (O, error), release func(O) error) *Keeper[O] {
	k := &Keeper[O]{system: system, acquire: acquire, release: release, open: map[string]sandbox.Sandbox{}}
	k.alive, k.end = context.WithCancel(context.Background())
	return k
}

// Closed tells whether Close was called.
func (k *Keeper[O]) Closed() bool { return k.alive.Err() != nil }

// Start makes a sandbox with launch and keeps it until Forget or Close. The context of launch ends with
// ctx and with the keeper; Start then returns ErrClosed or the context's error, whatever launch made of
// it. Other errors are those of launch, which leaves nothing behind.
func (k *Keeper[O]) Start(ctx context.Context, op string, launch func(context.Context, O) (sandbox.Sandbox, error)) (sandbox.Sandbox, error) {
	owned, err := k.begin(op)
	if err != nil {
		return nil, err
	}
	defer k.starting.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(k.alive, cancel)()
	s, err := launch(ctx, owned)
	switch {
	case err == nil:
	case k.Closed():
		return nil, k.closedError(op)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	default:
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open[s.ID()] = s // Close waits for starting before it looks here
	return s, nil
}

// begin registers a start. The caller calls starting.Done.
func (k *Keeper[O]) begin(op string) (owned O, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return owned, k.closedError(op)
	}
	if !k.has {
		if k.owned, err = k.acquire(); err != nil {
			return owned, err
		}
		k.has = true
	}
	k.starting.Add(1)
	return k.owned, nil
}

// Use calls f with what the keeper has acquired, unless it has nothing, or Close has begun. Close waits for it.
func (k *Keeper[O]) Use(f func(O)) {
	k.mu.Lock()
	if k.closed || !k.has {
		k.mu.Unlock()
		return
	}
	k.starting.Add(1)
	owned := k.owned
	k.mu.Unlock()
	defer k.starting.Done()
	f(owned)
}

func (k *Keeper[O]) closedError(op string) error {
	return &sandbox.Error{Op: op, System: k.system, Err: sandbox.ErrClosed, Detail: "the driver was closed"}
}

// Forget is for a sandbox that was closed.
func (k *Keeper[O]) Forget(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.open, id)
}

// Close ends starts in progress, closes all sandboxes, and releases what was acquired. It is
// idempotent.
func (k *Keeper[O]) Close() error {
	k.end()
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.starting.Wait()

	k.mu.Lock()
	open := make([]sandbox.Sandbox, 0, len(k.open))
	for _, s := range k.open {
		open = append(open, s)
	}
	owned, has := k.owned, k.has
	k.has = false
	k.mu.Unlock()

	errs := make([]error, len(open))
	var wg sync.WaitGroup
	for i, s := range open {
		wg.Go(func() { errs[i] = s.Close() })
	}
	wg.Wait()
	if has {
		errs = append(errs, k.release(owned))
	}
	return errors.Join(errs...)
}
