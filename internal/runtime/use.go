package runtime

import (
	"context"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// purpose of an operation on a box.
type purpose int

const (
	// forWork is what a budget that runs out ends.
	forWork purpose = iota
	// forReading is let for readGrace when a budget runs out: what was paid for can be fetched.
	forReading
	// forBackground is a process that waits, paused, while there is no budget.
	forBackground
)

// use is an operation in progress on a box.
type use struct {
	b   *box
	sb  sandbox.Sandbox
	raw sandbox.Sandbox // sb with all its abilities
	ctx context.Context // ends with the caller's, the box and, for work, the budget
	end func()
}

// enter begins an operation on one of the session's sandboxes, for work only if there is budget for it.
func (s *Session) enter(ctx context.Context, op, sandboxID string, why purpose) (*use, error) {
	b, err := s.box(op, sandboxID)
	if err != nil {
		return nil, err
	}
	return s.enterBox(ctx, op, b, why)
}

// enterBox is enter for a sandbox that the caller has.
func (s *Session) enterBox(ctx context.Context, op string, b *box, why purpose) (*use, error) {
	if why == forWork {
		if err := s.affordable(op); err != nil {
			return nil, err
		}
	}
	u, err := b.enter(ctx, why)
	if err != nil {
		return nil, b.reason(ctx, err)
	}
	return u, nil
}

// write waits until nobody else writes a file of the sandbox. done lets the next one.
func (u *use) write() (done func(), err error) {
	select {
	case u.b.writing <- struct{}{}:
		return func() { <-u.b.writing }, nil
	case <-u.ctx.Done():
		return nil, u.b.reason(u.ctx, context.Cause(u.ctx))
	}
}

// enter begins an operation: the sandbox is let go on if it is paused, and is not paused nor reaped
// for idleness until end is called, unless the operation only looks.
func (b *box) enter(ctx context.Context, why purpose) (*use, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(b.life, func() { cancel(context.Cause(b.life)) })
	ended := atEnd(ctx)
	release := func() { ended(); stop(); cancel(nil) }
	if err := b.lockTurn(ctx); err != nil {
		release()
		return nil, err
	}
	defer b.unlockTurn()
	b.mu.Lock()
	sb, paused, overrun := b.sb, b.paused, b.overrun
	b.mu.Unlock()
	if why == forReading && overrun >= readGrace {
		if no := b.s.ledger.exhausted(); no != nil {
			release()
			return nil, b.attributed(no.err("", nil))
		}
	}
	look := looks(ctx)
	if paused && look {
		release()
		return nil, b.attributed(refuse(CodeConflict, "", "resume it, with a token of the tenant that may", "the sandbox is paused, and to look at it would let it go on"))
	}
	if paused {
		if err := b.resume(ctx, sb); err != nil {
			err = b.reason(ctx, err)
			release()
			return nil, err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !look {
		b.busy++
	}
	switch why {
	case forWork:
		b.working[&cancel] = true
	case forReading:
		b.reading[&cancel] = true
	case forBackground:
		b.background++
	}
	var once sync.Once
	return &use{b: b, sb: measured{sb, b}, raw: sb, ctx: ctx, end: func() {
		once.Do(func() {
			release()
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.working, &cancel)
			delete(b.reading, &cancel)
			if why == forBackground {
				b.background--
			}
			if !look {
				b.busy--
				b.active = time.Now()
			}
		})
	}}, nil
}
