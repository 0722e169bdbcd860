package runtime

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

const (
	// tick is how often the reaper looks.
	tick = time.Second
	// reapTimeout bounds what it does to one sandbox at a time.
	reapTimeout = 30 * time.Second
	// readGrace is for how long a sandbox may run, in all, to be read when a budget is used up, and endGrace how long
	// what is ended then may take.
	readGrace = time.Minute
	endGrace  = 10 * time.Second
	// expireEvery is how often idempotency keys are looked through.
	expireEvery = time.Hour
)

// reap pauses and kills sandboxes by their policies until the runtime closes. One that takes long
// holds up no other.
func (r *Runtime) reap() {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var at sync.WaitGroup
	defer at.Wait()
	busy := map[*box]bool{} // those that something is being done to
	done := make(chan *box)
	expired := time.Now()
	for {
		select {
		case <-r.closing.Done():
			for len(busy) > 0 {
				delete(busy, <-done)
			}
			return
		case b := <-done:
			delete(busy, b)
			continue
		case <-ticker.C:
		}
		for _, b := range r.boxes() {
			if !busy[b] {
				busy[b] = true
				at.Go(func() {
					b.tend(r.closing)
					done <- b
				})
			}
		}
		if err := r.audit.sync(); err != nil {
			r.log.Error("could not write the audit log", "error", err)
		}
		if time.Since(expired) >= expireEvery {
			expired = time.Now()
			if err := r.once.expire(); err != nil {
				r.log.Error("could not forget old idempotency keys", "error", err)
			}
		}
	}
}

func (r *Runtime) boxes() []*box {
	r.mu.Lock()
	sessions := make([]*Session, 0, len(r.sessions))
	for _, s := range r.sessions {
		sessions = append(sessions, s)
	}
	r.mu.Unlock()
	var list []*box
	for _, s := range sessions {
		list = append(list, s.list()...)
	}
	return list
}

// tend does to a sandbox what its policy and its budgets say.
func (b *box) tend(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, reapTimeout)
	defer cancel()
	b.bill()
	if err := b.billUse(ctx); err != nil {
		_ = b.reason(ctx, fmt.Errorf("stats: %w", err)) // one that died is noticed here
	}
	now := time.Now()
	b.mu.Lock()
	expiry, idleKill, idlePause := b.expiry(), b.idleKill(), b.idlePause()
	b.mu.Unlock()
	over := func(t *time.Time) bool { return t != nil && !now.Before(*t) }
	const another = "create another sandbox"
	switch {
	case over(expiry):
		b.reapFor("expire", refuse(CodeGone, "", another+", with a longer time to live", "its time to live, %s, was over", b.spec.TTL))
	case over(idleKill):
		b.whenIdle(func() {
			b.reapFor("reap", refuse(CodeGone, "", another+"; a longer idle time, or a background process, keeps one", "it was idle for %s", b.spec.Idle.Kill))
		})
	case b.s.ledger.exhausted() != nil:
		b.starve(ctx, b.s.ledger.exhausted())
	case b.isStarved():
		b.feed(ctx)
	case over(idlePause):
		b.whenIdle(func() { b.pauseFor(ctx, "pause") })
	}
}

// whenIdle calls f, with the turn taken, if nothing goes on in the sandbox. Whoever has the turn now
// is about to use it.
func (b *box) whenIdle(f func()) {
	select {
	case b.turn <- struct{}{}:
		defer b.unlockTurn()
	default:
		return
	}
	b.mu.Lock()
	idle := b.busy == 0
	b.mu.Unlock()
	if idle {
		f()
	}
}

func (b *box) reapFor(op string, why *Error) {
	start := time.Now()
	b.record(op, start, why.Cause, b.kill(why))
}

func (b *box) pauseFor(ctx context.Context, op string) {
	start := time.Now()
	b.mu.Lock()
	already := b.paused
	b.mu.Unlock()
	if already {
		return
	}
	paused, err := b.pause(ctx)
	if paused || err != nil {
		b.record(op, start, "", err)
	}
}

// record writes what the runtime did by itself to the audit log.
func (b *box) record(op string, start time.Time, cause string, err error) {
	if err != nil {
		cause = b.s.r.scrub(err.Error())
		b.s.r.log.Warn("could not "+op+" a sandbox", "sandbox", b.id, "error", err)
	}
	b.s.r.observe(op, start, time.Since(start), b.s.r.translate(op, b.id, err))
	b.s.r.audit.append(AuditEntry{Time: time.Now(), Tenant: b.s.tenant.ID, Session: b.s.id, Op: op, Sandbox: b.id,
		Result: result(err), Cause: clip(cause, 256), DurationMS: time.Since(start).Milliseconds()})
}

// starve stops a sandbox whose budget is used up: work in the foreground is ended, with the reason, reading too when it
// has lasted, and what runs in the background waits, paused, until there is more. Where the system cannot pause, the
// sandbox is killed.
func (b *box) starve(ctx context.Context, no *BudgetRefusal) {
	if no == nil { // a window began in between
		return
	}
	b.mu.Lock()
	for cancel := range b.working {
		(*cancel)(no.err("", nil))
	}
	if b.overrun >= readGrace {
		for cancel := range b.reading {
			(*cancel)(no.err("", nil))
		}
	}
	_, can := b.sb.(sandbox.Pauser)
	quiet := b.isQuiet()
	b.mu.Unlock()
	if !can {
		if no.Resource != OutputBytes { // it costs nothing by being there
			b.reapFor("reap", refuse(CodeGone, "", "open another session, or ask for a larger budget", "the %s's budget of %s was used up", no.Of, no.Resource))
		}
		return
	}
	if !quiet || b.lockTurn(ctx) != nil {
		return // the next look is soon
	}
	defer b.unlockTurn()
	b.mu.Lock()
	quiet = b.isQuiet() // nobody enters without the turn
	already := b.paused
	b.mu.Unlock()
	if quiet && !already {
		b.pauseFor(ctx, "pause")
		b.mu.Lock()
		b.starved = b.paused && b.background > 0
		b.mu.Unlock()
	}
}

// isQuiet tells whether a sandbox without budget can be paused: it takes one that runs to end a program in it, or to
// finish reading. What has not ended in time may wait for a client that does not take what it has asked for. The
// caller holds mu.
func (b *box) isQuiet() bool { return b.busy == b.background || b.overrun >= readGrace+endGrace }

// isStarved tells whether starve has paused the sandbox, and what it stopped is still there.
func (b *box) isStarved() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.starved && b.background > 0
}

// feed lets a sandbox go on that starve has paused: there is budget again. If that fails it is tried again
// with the next look.
func (b *box) feed(ctx context.Context) {
	if b.lockTurn(ctx) != nil {
		return
	}
	defer b.unlockTurn()
	if !b.isStarved() { // somebody was faster
		return
	}
	b.mu.Lock()
	sb, again := b.sb, !b.paused
	b.mu.Unlock()
	start := time.Now()
	err := b.resume(ctx, sb)
	if err != nil {
		b.mu.Lock()
		b.starved = true
		b.mu.Unlock()
		if err = b.reason(ctx, err); again {
			return // once is enough for the log
		}
	}
	b.record("resume", start, "", err)
}

// billUse puts the vCPU time, and what was sent to the network, since the last call on the ledger, if a budget bounds it and the
// system reports it.
func (b *box) billUse(ctx context.Context) error {
	if !b.s.ledger.bounds(VCPUSeconds) && !b.s.ledger.bounds(EgressBytes) || b.isPaused() {
		return nil
	}
	b.mu.Lock()
	sb, generation := b.sb, b.generation
	b.mu.Unlock()
	reader, ok := sb.(sandbox.StatsReader)
	if !ok {
		return nil
	}
	stats, err := reader.Stats(ctx)
	if err != nil {
		return err
	}
	b.mu.Lock()
	var spent, sent int64
	if b.generation == generation {
		spent, sent = max(0, stats.CPUNanos-b.cpu), max(0, stats.SentBytes-b.sent)
		b.cpu, b.sent = max(b.cpu, stats.CPUNanos), max(b.sent, stats.SentBytes)
	}
	b.mu.Unlock()
	b.s.ledger.spend(VCPUSeconds, spent)
	b.s.ledger.spend(EgressBytes, sent)
	return nil
}

// restPatience is how long a sandbox that is to be closed may take to tell what it has used.
const restPatience = time.Second

// billRest is billUse for the last time: what somebody sends in the moment before that would be free of charge otherwise.
func (b *box) billRest() {
	ctx, cancel := context.WithTimeout(context.Background(), restPatience)
	defer cancel()
	_ = b.billUse(ctx) // it may have died, or be stuck
}
