package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aethervm/aether/internal/egress"
	"github.com/aethervm/aether/internal/egress/inject"
	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

// Names in the state directory, beside those of the database, the audit log and the lock.
const (
	snapshotsName = "snapshots" // one directory a snapshot
	scratchName   = "tmp"       // emptied by Open
)

// Runtime is open from Open to Close.
type Runtime struct {
	cfg     Config
	limits  Limits
	log     *slog.Logger
	dir     string // the state directory
	owner   string // the runtime's name, which no other one has
	started time.Time

	lock    *os.File     // of a state directory that was given
	scratch *lease.Lease // of a private one
	store   *store
	living  *store // of sandboxes and what goes with them
	audit   *auditLog
	found   Recovery
	// hidden are the paths of the host that no error shows, with what stands for them.
	hidden *strings.Replacer

	systems  *systems
	egress   *egress.Limit // nil if there is none
	outside  inject.Config // that injectors are made of, without rules; a test has its own
	pool     *pool
	once     *once
	written  atomic.Int64 // bytes, by programs
	observer atomic.Pointer[Observer]
	events   events

	// admin is held while tenants change, and naming while names of templates do. They are taken before mu.
	admin, naming sync.Mutex

	// closing ends when Close begins.
	closing context.Context
	close   context.CancelFunc
	reaper  sync.WaitGroup
	closed  sync.Once
	closeE  error

	mu        sync.Mutex
	draining  bool
	calls     int           // operations in progress
	idle      chan struct{} // closed when calls falls to 0; nil if nobody waits
	tenants   map[string]*tenant
	sessions  map[sessionKey]*Session
	snapshots map[string]*snapshot
	templates map[string]*template
	remains   map[string]*template // in no list any more, but still on disk
}

type sessionKey struct{ tenant, id string }

// Open takes possession of a state directory. What an owner that was killed has left is removed
// first; Recovered tells. ctx bounds the opening only.
func Open(ctx context.Context, cfg Config) (_ *Runtime, err error) {
	const op = "open"
	r := &Runtime{
		cfg: cfg, limits: cfg.Limits.withDefaults(), log: cfg.Log, started: time.Now().UTC(),
		hidden:  strings.NewReplacer(),
		tenants: map[string]*tenant{}, sessions: map[sessionKey]*Session{}, snapshots: map[string]*snapshot{}, templates: map[string]*template{}, remains: map[string]*template{},
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	set(&r.cfg.DefaultImage, image.DefaultName)
	set(&r.cfg.Pool.MemoryMiB, sandbox.DefaultMemoryMiB*r.cfg.Pool.Sandboxes)
	r.events.open(r.started)
	r.closing, r.close = context.WithCancel(context.Background())
	r.pool = newPool(r)
	defer func() {
		if err != nil {
			err = r.translate(op, "", errors.Join(err, r.free()))
		}
	}()
	if len(cfg.Drivers) == 0 || cfg.Images == nil {
		return nil, refuse(CodeInvalid, op, "give Drivers and Images", "there is nothing to make sandboxes with")
	}
	if err := cfg.Limits.Session.check(); err != nil {
		return nil, refuse(CodeInvalid, op, "a budget of 0 is no bound", "%v", err)
	}
	if r.systems, err = newSystems(cfg.Drivers, cfg.System, r.scrubHost); err != nil {
		return nil, err
	}
	if err := checkCapabilities(cfg.Capabilities); err != nil {
		return nil, refuse(CodeInvalid, op, "they are read, exec, fork and network", "%v", err)
	}
	if err := checkSecrets(cfg.Secrets); err != nil {
		return nil, err
	}
	if !cfg.Egress.Unlimited {
		if r.egress, err = egress.NewLimit(cfg.Egress.Allow...); err != nil {
			return nil, err
		}
	}
	if err := r.own(); err != nil {
		return nil, err
	}
	if r.store, err = openStore(r.dir, r.scratch != nil); err != nil {
		return nil, err
	}
	var note string
	if r.living, note, err = openLiving(r.dir); err != nil {
		return nil, err
	}
	r.remark(note)
	r.once = newOnce(r.store, r.living)
	if r.scratch == nil {
		if r.audit, note, err = openAudit(r.dir, r.store); err != nil {
			return nil, err
		}
		r.remark(note)
	}
	if err := r.recover(ctx); err != nil {
		return nil, err
	}
	c := r.call(op)
	c.note("orphans", fmt.Sprint(len(r.found.Orphans)))
	var nothing error
	c.end(&nothing)
	r.reaper.Go(r.reap)
	r.reaper.Go(r.pool.run)
	r.reaper.Go(r.clear)
	return r, nil
}

// own takes the state directory, or makes a private one.
func (r *Runtime) own() error {
	dir := r.cfg.StateDir
	if dir == "" {
		root, err := hostdir.RunOf("runtime")
		if err != nil {
			return err
		}
		if _, err := lease.Sweep(context.Background(), root, func(_ context.Context, l *lease.Lease) (int, error) {
			return 1, l.Release()
		}); err != nil {
			r.log.Warn("could not remove what a dead process left", "error", err)
		}
		if r.scratch, err = lease.Acquire(root); err != nil {
			return err
		}
		dir = filepath.Join(r.scratch.Dir, "state")
	}
	if !filepath.IsAbs(dir) {
		return refuse(CodeInvalid, "open", "give an absolute path", "the state directory is %q", dir)
	}
	r.dir = dir
	r.hide()
	// What is in it is nobody's business but the owner's.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	if r.scratch != nil {
		return nil
	}
	lock, err := lockDir(dir)
	r.lock = lock
	return err
}

// hide sets what scrub takes out of texts.
func (r *Runtime) hide() {
	var pairs []string
	for _, p := range []struct {
		dir  func() (string, error)
		name string
	}{
		{func() (string, error) { return r.dir, nil }, "<runtime>"},
		{hostdir.State, "<state>"},
		{hostdir.Run, "<run>"},
	} {
		if dir, err := p.dir(); err == nil && len(dir) > 1 {
			pairs = append(pairs, dir+"/", p.name+"/")
		}
	}
	r.hidden = strings.NewReplacer(pairs...)
}

// scrub takes the paths of the host that are known out of a text. Others may be the guest's own.
func (r *Runtime) scrub(s string) string { return r.hidden.Replace(s) }

var hostPathRE = regexp.MustCompile(`(^|://|[^\w./<>-])((?:/[\w.+@~-]+)+/)([\w.+@~-]*)`)

// scrubHost takes all paths out of a text that speaks of the host only, and leaves the names at their ends. Those
// of devices stay: they are the same everywhere.
func (r *Runtime) scrubHost(s string) string {
	return hostPathRE.ReplaceAllStringFunc(r.scrub(s), func(found string) string {
		m := hostPathRE.FindStringSubmatch(found)
		if strings.HasPrefix(m[2], "/dev/") || strings.HasPrefix(m[2], "/proc/") || strings.HasPrefix(m[2], "/sys/") {
			return found
		}
		return m[1] + ".../" + m[3]
	})
}

// remark adds a note to Recovery.
func (r *Runtime) remark(note string) {
	if note != "" {
		r.found.Notes = append(r.found.Notes, note)
	}
}

// Recovered is what Open found of an owner that did not close the runtime.
func (r *Runtime) Recovered() Recovery { return r.found }

// Status counts what there is.
func (r *Runtime) Status() Status {
	r.mu.Lock()
	st := Status{Started: r.started, Draining: r.draining, Tenants: len(r.tenants), Sessions: len(r.sessions), Snapshots: len(r.snapshots)}
	sessions := make([]*Session, 0, len(r.sessions))
	for _, s := range r.sessions {
		sessions = append(sessions, s)
	}
	r.mu.Unlock()
	for _, s := range sessions {
		s.count(&st)
	}
	return st
}

// Drain refuses new operations and waits until those in progress have ended and the sandboxes that were ready are
// removed, or ctx has ended. Background processes are not waited for. Close is to follow.
func (r *Runtime) Drain(ctx context.Context) error {
	r.mu.Lock()
	r.draining = true
	idle := r.idle
	switch {
	case r.calls == 0:
		idle = make(chan struct{})
		close(idle)
	case idle == nil:
		r.idle = make(chan struct{})
		idle = r.idle
	}
	r.mu.Unlock()
	dry := make(chan struct{})
	go func() { // Close waits for it
		r.pool.drain()
		close(dry)
	}()
	select {
	case <-idle:
	case <-ctx.Done():
		return r.translate("drain", "", fmt.Errorf("operations are still in progress: %w", ctx.Err()))
	}
	select {
	case <-dry:
	case <-ctx.Done():
		return r.translate("drain", "", fmt.Errorf("sandboxes that were ready are still being removed: %w", ctx.Err()))
	}
	return nil
}

// Close refuses new operations, ends those in progress, kills every sandbox and returns when nothing
// is left but what lasts: tenants, snapshots, the audit log. It is idempotent.
func (r *Runtime) Close() error {
	r.closed.Do(func() {
		r.mu.Lock()
		r.draining = true
		sessions := make([]*Session, 0, len(r.sessions))
		for _, s := range r.sessions {
			sessions = append(sessions, s)
		}
		r.mu.Unlock()
		r.close()
		r.reaper.Wait()
		errs := make([]error, len(sessions))
		var wg sync.WaitGroup
		for i, s := range sessions {
			wg.Go(func() { errs[i] = s.Close() })
		}
		wg.Wait()
		// Calls that are in no session: a new tenant, a ranking.
		_ = r.Drain(context.Background())
		err := errors.Join(errs...)
		r.audit.append(AuditEntry{Time: time.Now(), Op: "close", Result: result(err)})
		r.closeE = r.translate("close", "", errors.Join(err, r.free()))
	})
	return r.closeE
}

// free releases what Open took.
func (r *Runtime) free() error {
	r.close()
	for _, s := range r.snapshots {
		s.image.release()
	}
	for _, t := range r.templates {
		t.image.release()
	}
	err := r.audit.close()
	for _, s := range []*store{r.living, r.store} {
		if s != nil {
			err = errors.Join(err, s.close())
		}
	}
	if r.lock != nil {
		err = errors.Join(err, r.lock.Close())
	}
	if r.scratch != nil {
		err = errors.Join(err, r.scratch.Release())
	}
	return err
}

// recover reads the database and removes what a process has left that was killed.
func (r *Runtime) recover(ctx context.Context) error {
	bad := func(what string) func(string, error) {
		return func(key string, err error) {
			r.remark(fmt.Sprintf("a %s in the database cannot be read, and is left there: %v", what, err))
		}
	}
	tenants, err := all[tenantRecord](r.store, bucketTenants, bad("tenant"))
	if err != nil {
		return err
	}
	for id, t := range tenants {
		r.tenants[id] = newTenant(t)
	}
	var stale []string
	orphans, err := all[sandboxRecord](r.living, bucketSandboxes, func(key string, _ error) { stale = append(stale, key) })
	if err != nil {
		return err
	}
	for id, o := range orphans {
		stale = append(stale, id)
		r.found.Orphans = append(r.found.Orphans, Orphan{Sandbox: id, Tenant: o.Tenant, System: o.System, Created: o.Created})
	}
	slices.SortFunc(r.found.Orphans, func(a, b Orphan) int { return a.Created.Compare(b.Created) })
	if err := errors.Join(r.recoverSnapshots(ctx), r.recoverTemplates(ctx)); err != nil {
		return err
	}
	r.sweep(ctx)
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, o := range r.found.Orphans {
		r.audit.append(AuditEntry{Time: time.Now(), Tenant: o.Tenant, Op: "recover", Sandbox: o.Sandbox, Result: "ok",
			Cause: "its owner died; the sandbox was removed"})
	}
	if err := r.living.remove(bucketSandboxes, stale...); err != nil {
		return err
	}
	return r.once.recover()
}

// sweep lets every driver remove what dead processes have left.
func (r *Runtime) sweep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	r.found.Swept = map[string]int{}
	for _, d := range r.cfg.Drivers {
		wg.Go(func() {
			n, err := d.Sweep(ctx)
			mu.Lock()
			defer mu.Unlock()
			if n > 0 {
				r.found.Swept[d.System()] = n
			}
			if err != nil && !errors.Is(err, sandbox.ErrUnavailable) {
				r.remark(fmt.Sprintf("%s: could not remove what dead processes left: %s", d.System(), r.scrub(err.Error())))
			}
		})
	}
	wg.Wait()
}
