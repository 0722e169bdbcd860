package aethervm

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

const (
	// maxParked is how many copies of a template a driver has ready, of one template at a time. Each takes what memory a copy
	// has touched until it is told who it is.
	maxParked = 2
	// parkDemand is how often a template must have been copied before copies of it are made ahead.
	parkDemand = 2
	// parkDelay is for how long nobody must have asked for a copy before some are made ahead: who has just got one
	// wants the processor.
	parkDelay = 200 * time.Millisecond
	// aheadLife is how long parked copies and spare cells are kept when nobody asks for any.
	aheadLife = 5 * time.Minute
)

// parked are copies of a template that were made ahead of who asks for them, up to the moment at which a copy is told who
// it is. Their programs are frozen, and their processors stand still. Nobody but who copies the template gets one, and
// what was taken never comes back. The zero value is ready.
type parked struct {
	mu     sync.Mutex
	closed bool
	digest string // of the template; all that follows is about that one
	asked  int
	ready  []*Sandbox
	making bool
	timer  *time.Timer
	idle   *time.Timer // forgets what nobody has asked for
	tasks  sync.WaitGroup
	ctx    context.Context // of those in the making
	stop   context.CancelFunc
}

// take returns a copy of a template, which is the caller's, or nil if none is ready.
func (p *parked) take(digest string) *Sandbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.digest != digest {
		return nil
	}
	for len(p.ready) > 0 {
		s := p.ready[len(p.ready)-1]
		p.ready = p.ready[:len(p.ready)-1]
		if s.Ended("take") == nil {
			return s
		}
		p.tasks.Go(func() { _ = s.Close() })
	}
	return nil
}

// want notes that a template was copied, and has copies of it made by make after a while if that happens often.
func (p *parked) want(digest string, make func(ctx context.Context)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	if p.digest != digest {
		p.drop()
		p.digest, p.asked = digest, 0
	}
	if p.asked++; p.asked < parkDemand {
		return
	}
	if p.idle == nil {
		p.idle = time.AfterFunc(aheadLife, p.forget)
	}
	p.idle.Reset(aheadLife)
	if p.ctx == nil {
		p.ctx, p.stop = context.WithCancel(context.Background())
	}
	if p.timer != nil {
		p.timer.Stop()
	}
	p.timer = time.AfterFunc(parkDelay, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case p.closed:
			return
		case p.making: // of another template, perhaps
			p.timer.Reset(parkDelay)
			return
		}
		p.making = true
		p.tasks.Go(func() {
			make(p.ctx)
			p.mu.Lock()
			p.making = false
			p.mu.Unlock()
		})
	})
}

// wants tells whether there are too few copies of a template.
func (p *parked) wants(digest string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.closed && p.digest == digest && len(p.ready) < maxParked
}

// put takes over a copy that was made.
func (p *parked) put(digest string, s *Sandbox) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.digest != digest {
		p.tasks.Go(func() { _ = s.Close() })
		return
	}
	p.ready = append(p.ready, s)
}

// forget closes what is ready: a template is no more, which may be the one, or nobody asks.
func (p *parked) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.drop()
		p.digest = ""
	}
}

// drop closes what is ready. The caller holds p.mu.
func (p *parked) drop() {
	for _, s := range p.ready {
		p.tasks.Go(func() { _ = s.Close() })
	}
	p.ready = nil
}

// close closes all copies that nobody has taken; there will be no more. It is idempotent.
func (p *parked) close() error {
	p.mu.Lock()
	p.closed = true
	if p.stop != nil {
		p.stop()
	}
	for _, t := range []*time.Timer{p.timer, p.idle} {
		if t != nil {
			t.Stop()
		}
	}
	ready := p.ready
	p.ready = nil
	p.mu.Unlock()
	list := make([]sandbox.Sandbox, len(ready))
	for i, s := range ready {
		list[i] = s
	}
	err := closeSandboxes(list)
	p.tasks.Wait()
	return err
}

// fillParked makes copies of a template ahead. What goes wrong, who copies it will be told.
func (d *Driver) fillParked(ctx context.Context, name, digest string) {
	const op = "fork template"
	d.keeper.Use(func(owned *lease.Lease) {
		store, err := openTemplates()
		if err != nil {
			return
		}
		t, dir, f, err := store.open(ctx, op, name)
		if err != nil {
			return
		}
		if t.Digest != digest { // it has become another one
			_ = f.Close()
			return
		}
		o, err := d.open(ctx, dir, f, t.Spec)
		if err != nil {
			return
		}
		defer func() { _ = o.close() }()
		for d.parked.wants(digest) {
			s, err := o.park(ctx, op, owned)
			if err != nil {
				return
			}
			d.parked.put(digest, s)
		}
	})
}

// park makes a copy whose agent waits to be told who it is, and stops it there. What is known of that, it is told already:
// what that takes of memory and time, it does not take again.
func (o original) park(ctx context.Context, op string, owned *lease.Lease) (*Sandbox, error) {
	s, err := o.start(ctx, op, owned, nil)
	if err != nil {
		return nil, err
	}
	if err = s.BringUp(ctx, s.machine.connect, s.Configure); err == nil {
		err = s.machine.cell.Pause(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// unpark lets a parked copy go on, as wake does with one that was just started.
func (s *Sandbox) unpark(ctx context.Context, op string) error {
	return s.Introduce(ctx, op, func(ctx context.Context, cfg agentproto.Config) error {
		if err := s.machine.cell.Resume(ctx); err != nil {
			return err
		}
		return s.becomeCopy(ctx, cfg)
	})
}

// parkedCopies takes up to n copies of a template that were made ahead. One that cannot be woken is left out.
func (d *Driver) parkedCopies(ctx context.Context, op, digest string, n int) (list []sandbox.Sandbox) {
	for len(list) < n && ctx.Err() == nil {
		c := d.parked.take(digest)
		if c == nil {
			break
		}
		s, err := d.keeper.Start(ctx, op, func(ctx context.Context, _ *lease.Lease) (sandbox.Sandbox, error) {
			return c, c.unpark(ctx, op)
		})
		if err != nil { // also before anything was done with it
			_ = c.Close()
			continue
		}
		list = append(list, s)
	}
	return list
}
