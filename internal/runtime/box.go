package runtime

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// box is a sandbox of a session: a sandbox of a driver, and what the runtime knows about it.
type box struct {
	s       *Session
	id      string
	order   int // of creation, where the clock does not tell
	driver  sandbox.Driver
	spec    SandboxSpec // with defaults
	created time.Time
	why     string // this system
	parent  string
	from    string // the snapshot it was restored from
	// template is what it was made a copy of.
	template string
	image    *hold
	digest   string // of the image
	// ephemeral boxes end with the call or the process that they were made for.
	ephemeral bool

	// life ends, with the reason, when kill begins.
	life context.Context
	end  context.CancelCauseFunc
	// turn is taken by whoever begins an operation, for a moment, and by what must be alone: pausing,
	// resuming, rolling back. It is taken before mu.
	turn chan struct{}
	// writing serializes edits of files.
	writing chan struct{}

	killing   sync.Once
	killErr   error
	closeTime time.Duration // that the driver took

	mu         sync.Mutex
	sb         sandbox.Sandbox // another one after a rollback
	generation int             // counted up with it
	paused     bool
	// starved tells that it is paused for want of budget: it goes on by itself when there is more.
	starved    bool
	busy       int       // operations in progress, background processes too
	background int       // how many of them are background processes
	active     time.Time // when busy fell to 0
	billed     time.Time // up to which its time is on the ledger
	cpu        int64     // nanoseconds that are on the ledger
	sent       int64     // bytes to the network that are on it
	interps    map[Language]*interpreter
	// working and reading hold what ends the operations in progress that are for that, when a budget runs out.
	working, reading map[*context.CancelCauseFunc]bool
	// overrun is for how long it has run with a budget used up.
	overrun time.Duration
}

var boxOrder atomic.Int64

// register makes a box of a driver's sandbox and takes it into the session. The budget for it has
// been reserved. On error the sandbox is closed, and all is given back.
func (s *Session) register(b *box, sb sandbox.Sandbox) error {
	now := time.Now()
	b.s, b.sb = s, sb
	b.id, b.order = newID(prefixSandbox), int(boxOrder.Add(1))
	b.created, b.active, b.billed = now, now, now
	b.life, b.end = context.WithCancelCause(context.Background())
	b.turn, b.writing = make(chan struct{}, 1), make(chan struct{}, 1)
	b.working, b.reading = map[*context.CancelCauseFunc]bool{}, map[*context.CancelCauseFunc]bool{}
	if b.interps == nil {
		b.interps = map[Language]*interpreter{}
	}
	err := s.r.living.put(bucketSandboxes, b.id, sandboxRecord{
		ID: b.id, Tenant: s.tenant.ID, Session: s.id, System: b.driver.System(), Created: now.UTC().Round(0)})
	if err == nil {
		err = s.add(b)
	}
	if err != nil {
		return errors.Join(err, b.kill(s.r.typed("create", "", err)))
	}
	b.tellMade()
	return nil
}

// kill ends the sandbox for a reason and frees what it had. Whoever calls it again waits until that
// is done.
func (b *box) kill(why *Error) error {
	b.killing.Do(func() {
		b.s.drop(b.id, why)
		b.end(why)
		b.mu.Lock()
		sb := b.sb
		b.mu.Unlock()
		b.bill()
		b.billRest()
		start, done := time.Now(), b.drive(context.Background(), "close")
		b.killErr = sb.Close()
		done(&b.killErr)
		b.closeTime = time.Since(start)
		b.tell(EventKilled, why.Cause)
		b.image.release()
		b.s.ledger.release(1, int64(b.spec.MemoryMiB))
		if b.killErr != nil {
			// The record stays: the next owner of the directory reports it.
			b.s.r.log.Error("could not close a sandbox", "sandbox", b.id, "system", b.driver.System(), "error", b.killErr)
			return
		}
		b.killErr = b.s.r.living.remove(bucketSandboxes, b.id)
	})
	return b.killErr
}

func (b *box) lockTurn(ctx context.Context) error {
	select {
	case b.turn <- struct{}{}:
		if ctx.Err() != nil {
			b.unlockTurn()
			return context.Cause(ctx)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (b *box) unlockTurn() { <-b.turn }

// resume lets the sandbox go on. The caller has the turn.
func (b *box) resume(ctx context.Context, sb sandbox.Sandbox) error {
	p, ok := sb.(sandbox.Pauser)
	if !ok {
		return fmt.Errorf("%s paused a sandbox that it cannot let go on", b.driver.System())
	}
	done := b.drive(ctx, "resume")
	err := p.Resume(ctx)
	done(&err)
	// Also when it fails: it may run, and what runs is billed. To pause it again does no harm.
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paused, b.starved = false, false
	b.billed = time.Now()
	if err == nil {
		b.tell(EventResumed, "")
	}
	return err
}

// pause stops the sandbox if its system can. The caller has the turn.
func (b *box) pause(ctx context.Context) (bool, error) {
	b.mu.Lock()
	p, ok := b.sb.(sandbox.Pauser)
	paused := b.paused
	b.mu.Unlock()
	if !ok || paused {
		return paused, nil
	}
	_ = b.billUse(ctx) // while it can tell; Pause says what is wrong
	done := b.drive(ctx, "pause")
	err := p.Pause(ctx)
	if done(&err); err != nil {
		return false, err
	}
	b.bill()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paused = true
	b.tell(EventPaused, "")
	return true, nil
}

func (b *box) isPaused() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.paused
}

// reason is why an operation on the box failed with err: that the box was killed, or a budget ran
// out, says more than what the driver saw of it. A sandbox that died is cleaned up.
func (b *box) reason(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, sandbox.ErrDead) && b.life.Err() == nil {
		cause := "the sandbox ended by itself"
		if e, ok := errors.AsType[*sandbox.Error](err); ok && e.Detail != "" {
			cause += ": " + b.s.r.scrub(e.Detail)
		}
		why := refuse(CodeGone, "", "create another one; with more memory, if it ran out of that", "%s", cause)
		if killErr := b.kill(why); killErr != nil {
			b.s.r.log.Warn("could not clean up a sandbox that died", "sandbox", b.id, "error", killErr)
		}
	}
	if b.life.Err() != nil {
		return b.attributed(context.Cause(b.life))
	}
	if e, ok := errors.AsType[*Error](context.Cause(ctx)); ok {
		return b.attributed(e)
	}
	if errors.Is(err, sandbox.ErrClosed) { // the box lives, so it was what it used to be that ended
		return &Error{Code: CodeGone, Sandbox: b.id, Cause: "the sandbox was rolled back", Remedy: "start it again", Err: err}
	}
	return err
}

func (b *box) attributed(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		c := *e
		c.Sandbox = b.id
		return &c
	}
	return err
}

// bill puts the sandbox's time since the last call on the ledger, unless it was paused.
func (b *box) bill() {
	now := time.Now()
	b.mu.Lock()
	var spent time.Duration
	if !b.paused {
		spent = now.Sub(b.billed)
	}
	b.billed = now
	b.mu.Unlock()
	b.s.ledger.spend(SandboxSeconds, int64(spent))
	exhausted := b.s.ledger.exhausted() != nil
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, pauses := b.sb.(sandbox.Pauser); pauses && exhausted {
		b.overrun += spent
	} else {
		b.overrun = 0
	}
}

// reapTime is when the sandbox will be killed if nothing happens in it; nil is never.
func (b *box) reapTime() *time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return earliest(b.expiry(), b.idleKill())
}

func (b *box) expiry() *time.Time {
	if b.spec.TTL <= 0 {
		return nil
	}
	t := b.created.Add(b.spec.TTL).UTC()
	return &t
}

// idleKill and idlePause are nil while something goes on. The caller holds mu.
func (b *box) idleKill() *time.Time { return b.idleAfter(b.spec.Idle.Kill) }
func (b *box) idlePause() *time.Time {
	if _, ok := b.sb.(sandbox.Pauser); !ok || b.paused {
		return nil
	}
	return b.idleAfter(b.spec.Idle.Pause)
}

func (b *box) idleAfter(d time.Duration) *time.Time {
	if b.busy > 0 || d <= 0 {
		return nil
	}
	t := b.active.Add(d).UTC()
	return &t
}

func earliest(times ...*time.Time) *time.Time {
	var first *time.Time
	for _, t := range times {
		if t != nil && (first == nil || t.Before(*first)) {
			first = t
		}
	}
	return first
}

// info describes the box.
func (b *box) info() SandboxInfo {
	processes := b.s.runningIn(b.id)
	b.mu.Lock()
	defer b.mu.Unlock()
	i := SandboxInfo{
		ID: b.id, System: b.driver.System(), Why: b.why, State: StateRunning, Image: b.spec.Image,
		VCPUs: b.spec.VCPUs, MemoryMiB: b.spec.MemoryMiB, Network: b.spec.Network, Egress: b.spec.Egress, Labels: b.spec.Labels,
		Parent: b.parent, Snapshot: b.from, Template: b.template, Created: b.created.UTC(), Processes: processes,
		PauseIn: secondsTo(b.idlePause()), KillIn: secondsTo(b.idleKill()), ExpiresIn: secondsTo(b.expiry()),
	}
	if b.paused {
		i.State = StatePaused
	}
	return i
}

func secondsTo(t *time.Time) *int64 {
	if t == nil {
		return nil
	}
	n := int64(max(0, time.Until(*t)).Round(time.Second) / time.Second)
	return &n
}
