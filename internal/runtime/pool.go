package runtime

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

const (
	// maxKinds bounds the kinds of sandboxes whose demand is counted, and maxKindsEach those of one tenant.
	maxKinds     = 64
	maxKindsEach = 16
	// checkSpares is how often a spare sandbox is looked at: one that has died is not handed out for longer.
	checkSpares = 10 * time.Second
	// fillPause is how long no more of a kind are made after that has failed.
	fillPause    = time.Minute
	spareTimeout = 3 * time.Minute
)

// pool has sandboxes ready for those who will ask for them. Nothing has run in one before it is taken, nobody has
// paid for it, and what was taken never comes back.
type pool struct {
	r    *Runtime
	kick chan struct{}   // wakes run
	ctx  context.Context // ends with drain
	stop context.CancelFunc
	work sync.WaitGroup

	mu     sync.Mutex
	closed bool
	kinds  map[string]*kind
	stats  PoolStats
}

// kind is what a sandbox of a tenant is like for the driver: two of a kind can stand for each other. How long a sandbox
// takes to come tells nobody what other tenants ask for.
type kind struct {
	key string
	order
	image  string // a digest: the name may come to mean another one
	gone   bool   // its template is
	demand demand
	spares []*spare
	making int
	until  time.Time // nothing is made before
}

// spare is a sandbox of the pool.
type spare struct {
	sb      sandbox.Sandbox
	by      candidate
	image   *hold
	looked  time.Time
	looking bool
}

// PoolStats counts what the pool of ready sandboxes has done since Open, and has.
type PoolStats struct {
	// Ready is how many sandboxes wait to be taken, and MemoryMiB what they may use together.
	Ready     int
	MemoryMiB int64
	// Hits is how many requests were given one, Misses how many made their own.
	Hits, Misses int64
	// Made is how many were made, Failed how many could not be, and Dropped how many nobody came for, or died.
	Made, Failed, Dropped int64
}

// Pool tells how the pool of ready sandboxes is doing.
func (r *Runtime) Pool() PoolStats {
	r.pool.mu.Lock()
	defer r.pool.mu.Unlock()
	st := r.pool.stats
	for _, k := range r.pool.kinds {
		st.Ready += len(k.spares)
		st.MemoryMiB += int64(len(k.spares) * k.spec.MemoryMiB)
	}
	return st
}

func newPool(r *Runtime) *pool {
	p := &pool{r: r, kick: make(chan struct{}, 1), kinds: map[string]*kind{}}
	p.ctx, p.stop = context.WithCancel(r.closing)
	return p
}

func (p *pool) enabled() bool { return p.r.cfg.Pool.Sandboxes > 0 }

// kindOf is the key of a kind. The image counts by its digest.
func kindOf(o order) (string, error) {
	template := ""
	if o.template != nil {
		template = o.template.Kept.Name
	}
	raw, err := json.Marshal(struct {
		Tenant, System, Template string
		Spec                     sandbox.Spec
	}{o.tenant, o.system, template, o.spec})
	return string(raw), err
}

// take counts a tenant's request, and answers it with a sandbox that is ready, or nil.
func (p *pool) take(o order) *spare {
	if !p.enabled() {
		return nil
	}
	key, err := kindOf(o)
	if err != nil {
		return nil
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.kinds[key]
	if k == nil {
		if k = p.admit(o, key, now); k == nil {
			p.stats.Misses++
			return nil
		}
	}
	k.demand.asked(now)
	p.wake()
	if len(k.spares) == 0 {
		p.stats.Misses++
		return nil
	}
	// The one that was looked at last is the surest to be alive. One that is just being looked at does no worse.
	i := len(k.spares) - 1
	for j, s := range k.spares {
		if s.looked.After(k.spares[i].looked) {
			i = j
		}
	}
	s := k.spares[i]
	k.spares = slices.Delete(k.spares, i, i+1)
	p.stats.Hits++
	return s
}

// admit makes a kind, in place of the one that is asked for least if there are too many, or too many of the tenant. The
// caller holds mu.
func (p *pool) admit(o order, key string, now time.Time) *kind {
	all := slices.Collect(maps.Values(p.kinds))
	own := slices.DeleteFunc(slices.Clone(all), func(k *kind) bool { return k.tenant != o.tenant })
	if rivals := all; len(all) >= maxKinds || len(own) >= maxKindsEach {
		if len(own) >= maxKindsEach {
			rivals = own
		}
		least := slices.MinFunc(rivals, func(a, b *kind) int {
			return cmp.Compare(a.demand.now(now), b.demand.now(now))
		})
		if least.demand.now(now) >= 1 || len(least.spares) > 0 || least.making > 0 {
			return nil
		}
		delete(p.kinds, least.key)
	}
	k := &kind{key: key, order: o, image: o.spec.Image.Digest}
	p.kinds[key] = k
	return k
}

// took notes how long it takes to make a sandbox of a kind.
func (p *pool) took(o order, d time.Duration) {
	if !p.enabled() {
		return
	}
	key, err := kindOf(o)
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := p.kinds[key]; k != nil && err == nil {
		k.demand.took(d)
	}
}

func (p *pool) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// run makes and drops sandboxes until the runtime drains or closes, and returns when none is left.
func (p *pool) run() {
	if !p.enabled() {
		return
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	defer p.drain()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.kick:
		case <-ticker.C:
		}
		p.tend()
	}
}

// tend makes the pool what demand wants.
func (p *pool) tend() {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	kinds := slices.SortedFunc(maps.Values(p.kinds), func(a, b *kind) int {
		return cmp.Or(cmp.Compare(b.demand.now(now), a.demand.now(now)), cmp.Compare(a.key, b.key))
	})
	left, memory, making := p.r.cfg.Pool.Sandboxes, p.r.cfg.Pool.MemoryMiB, 0
	for _, k := range kinds {
		making += k.making
	}
	for _, k := range kinds {
		// What is wanted most gets its share of the bounds first.
		want := min(k.demand.spares(now), left, memory/k.spec.MemoryMiB)
		for len(k.spares) > want {
			if !p.dropOne(k) {
				break
			}
		}
		for len(k.spares)+k.making < want && making < p.r.limits.Parallel && now.After(k.until) {
			making++
			k.making++
			p.work.Go(func() { p.fill(k) })
		}
		have := max(want, len(k.spares)+k.making)
		left, memory = max(0, left-have), max(0, memory-have*k.spec.MemoryMiB)
		for _, s := range k.spares {
			if !s.looking && now.Sub(s.looked) >= checkSpares {
				s.looking = true
				p.work.Go(func() { p.look(k, s) })
			}
		}
		if k.demand.now(now) < 0.01 && len(k.spares) == 0 && k.making == 0 {
			delete(p.kinds, k.key)
		}
	}
}

// dropOne removes the oldest of the spares that nothing is being done to. The caller holds mu.
func (p *pool) dropOne(k *kind) bool {
	i := slices.IndexFunc(k.spares, func(s *spare) bool { return !s.looking })
	if i < 0 {
		return false
	}
	s := k.spares[i]
	k.spares = slices.Delete(k.spares, i, i+1)
	p.stats.Dropped++
	p.work.Go(func() { p.discard(s) })
	return true
}

// fill makes one sandbox.
func (p *pool) fill(k *kind) {
	ctx, cancel := context.WithTimeout(p.ctx, spareTimeout)
	defer cancel()
	start := time.Now()
	s, err := p.make(ctx, k)
	p.mu.Lock()
	defer p.mu.Unlock()
	k.making--
	switch {
	case err != nil && k.gone:
	case err != nil && p.ctx.Err() == nil:
		p.stats.Failed++
		k.until = time.Now().Add(fillPause)
		p.r.log.Warn("could not have a sandbox ready", "image", k.spec.Image.Digest, "error", err)
	case err != nil:
	case p.closed || k.gone:
		p.work.Go(func() { p.discard(s) })
	default:
		p.stats.Made++
		k.demand.took(time.Since(start))
		s.looked = time.Now()
		k.spares = append(k.spares, s)
		p.wake()
	}
}

func (p *pool) make(ctx context.Context, k *kind) (*spare, error) {
	img, release, err := p.r.cfg.Images.Resolve(ctx, k.image)
	if err != nil {
		return nil, err
	}
	hold := newHold(release)
	o := k.order
	o.spec.Image = img
	if key, err := kindOf(o); err != nil || key != k.key {
		hold.release()
		return nil, errors.Join(errors.New("the image is not what it was"), err)
	}
	sb, by, err := p.r.build(ctx, "warm", o)
	if err != nil {
		hold.release()
		return nil, err
	}
	return &spare{sb: sb, by: by, image: hold}, nil
}

// look finds out whether a spare lives.
func (p *pool) look(k *kind, s *spare) {
	ctx, cancel := context.WithTimeout(p.ctx, reapTimeout)
	defer cancel()
	_, err := s.sb.Stat(ctx, "/")
	p.mu.Lock()
	defer p.mu.Unlock()
	s.looking, s.looked = false, time.Now()
	i := slices.Index(k.spares, s)
	if err == nil || p.ctx.Err() != nil || i < 0 {
		return
	}
	k.spares = slices.Delete(k.spares, i, i+1)
	p.stats.Dropped++
	p.r.log.Warn("a sandbox that was ready has died", "sandbox", s.sb.ID(), "error", err)
	p.work.Go(func() { p.discard(s) })
}

func (p *pool) discard(s *spare) {
	if err := s.sb.Close(); err != nil {
		p.r.log.Error("could not close a sandbox that nobody has taken", "sandbox", s.sb.ID(), "error", err)
	}
	s.image.release()
}

// forget closes the copies of a template that nobody has taken, and makes no more: it is to be removed.
func (p *pool) forget(templateID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, k := range p.kinds {
		if k.template == nil || k.template.ID != templateID {
			continue
		}
		k.gone = true
		p.dropAll(k)
		delete(p.kinds, key)
	}
}

// dropAll closes the spares of a kind. The caller holds mu.
func (p *pool) dropAll(k *kind) {
	for _, s := range k.spares {
		p.stats.Dropped++
		p.work.Go(func() { p.discard(s) })
	}
	k.spares = nil
}

// drain closes what nobody has taken, and makes no more. It is idempotent.
func (p *pool) drain() {
	p.stop()
	p.mu.Lock()
	p.closed = true
	for _, k := range p.kinds {
		p.dropAll(k)
	}
	p.mu.Unlock()
	p.work.Wait()
}
