package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// forkEnv is in the environment of what a child of a fork is given to run: its number, from 0.
const forkEnv = "AETHER_FORK"

// Fork makes copies of a sandbox, all or none, and has each run something if it was given. A system
// that cannot fork is made to by a snapshot that is restored.
func (s *Session) Fork(ctx context.Context, req ForkRequest) (res ForkResult, err error) {
	ctx, c, err := s.call(ctx, "fork", req.Sandbox, CanFork)
	defer c.end(&err)
	if err != nil {
		return res, err
	}
	if req.Count == 0 {
		req.Count = max(1, len(req.Runs))
	}
	c.note("count", strconv.Itoa(req.Count))
	if err := s.checkFork(c.op, req); err != nil {
		return res, err
	}
	return do(ctx, c, req.Key, req, false, func() (ForkResult, error) {
		b, err := s.box(c.op, req.Sandbox)
		if err != nil {
			return ForkResult{}, err
		}
		start := time.Now()
		children, kind, err := s.fork(ctx, c, b, req.Count)
		if err != nil {
			return ForkResult{}, err
		}
		res := ForkResult{Kind: kind, DurationMS: time.Since(start).Milliseconds(), Children: make([]ForkChild, len(children))}
		s.runChildren(ctx, c.op, children, req.Runs, res.Children)
		return res, nil
	})
}

func (s *Session) checkFork(op string, req ForkRequest) error {
	limit := s.r.limits.Forks
	if req.Count < 1 || req.Count > limit {
		return refuse(CodeInvalid, op, fmt.Sprintf("fork 1 to %d at a time", limit), "the number of children is %d", req.Count)
	}
	if n := len(req.Runs); n > 1 && n != req.Count {
		return refuse(CodeInvalid, op, "give none, one for all, or one for each", "there are %d programs for %d children", n, req.Count)
	}
	for i := range req.Runs {
		run := &req.Runs[i]
		if !s.can(CanExec) {
			return refuse(CodeDenied, op, "fork without programs", "this session has no capability %q", CanExec)
		}
		if run.Sandbox != "" || run.Key != "" || run.Background {
			return refuse(CodeInvalid, op, "leave them out", "program %d names a sandbox or a key, or is one for the background", i)
		}
		if err := run.check(op); err != nil {
			return err
		}
	}
	return nil
}

func (s *Session) fork(ctx context.Context, c *call, b *box, n int) (children []*box, kind sandbox.SnapshotKind, err error) {
	if err := s.affordable(c.op); err != nil {
		return nil, "", err
	}
	count, memory := int64(n), int64(n)*int64(b.spec.MemoryMiB)
	if no := s.ledger.reserve(count, memory); no != nil {
		return nil, "", no.err(c.op, s.nextReap())
	}
	made, kind, err := b.copies(ctx, c.op, n)
	if err != nil {
		s.ledger.release(count, memory)
		return nil, "", err
	}
	interps := b.interpreters(kind)
	spec := b.spec
	spec.Secrets = inherited(spec.Secrets)
	errs := make([]error, n)
	children = make([]*box, n)
	var wg sync.WaitGroup
	for i, sb := range made { // at the same time, so that they share the wait for the disk
		child := &box{driver: b.driver, spec: spec, why: "forked", parent: b.id, image: b.image.share(), digest: b.digest, interps: copied(interps)}
		children[i] = child
		wg.Go(func() { errs[i] = s.register(child, sb) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		why := refuse(CodeGone, "", "", "the fork that it was made for failed")
		for _, child := range children {
			err = errors.Join(err, child.kill(why))
		}
		return nil, "", err
	}
	return children, kind, nil
}

// copies has the driver copy the sandbox. On error there are none.
func (b *box) copies(ctx context.Context, op string, n int) (made []sandbox.Sandbox, kind sandbox.SnapshotKind, err error) {
	u, err := b.enter(ctx, forWork)
	if err != nil {
		return nil, "", b.reason(ctx, err)
	}
	defer u.end()
	if f, ok := u.raw.(sandbox.Forker); ok {
		done := b.drive(u.ctx, "fork")
		made, err = f.Fork(u.ctx, n)
		done(&err)
		return made, sandbox.SnapshotFull, b.reason(u.ctx, err)
	}
	if len(inherited(b.spec.Secrets)) > 0 {
		return nil, "", refuse(CodeUnsupported, op, "have the secrets not inherited", "%s forks by way of a snapshot, which has no secrets", b.driver.System())
	}
	dir := filepath.Join(b.s.r.dir, scratchName, newID(prefixSnapshot))
	saved, err := b.save(u, op, dir)
	if err != nil {
		return nil, "", errors.Join(b.reason(u.ctx, err), os.RemoveAll(dir))
	}
	d := b.driver.(sandbox.Restorer) // save has looked
	made, err = b.s.r.restoreAll(u.ctx, d, saved, n)
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), reapTimeout)
	defer cancel()
	if rmErr := errors.Join(d.RemoveSnapshot(clean, saved), os.RemoveAll(dir)); rmErr != nil {
		b.s.r.log.Warn("could not remove the snapshot of a fork", "sandbox", b.id, "error", rmErr)
	}
	return made, saved.Kind, b.reason(u.ctx, err)
}

// restoreAll restores n sandboxes, all or none.
func (r *Runtime) restoreAll(ctx context.Context, d sandbox.Restorer, saved sandbox.Snapshot, n int) ([]sandbox.Sandbox, error) {
	made, errs := make([]sandbox.Sandbox, n), make([]error, n)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	slots := make(chan struct{}, r.limits.Parallel)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if ctx.Err() != nil {
				errs[i] = ctx.Err()
				return
			}
			done := r.drive(ctx, saved.System, "restore")
			made[i], errs[i] = d.Restore(ctx, saved)
			if done(&errs[i]); errs[i] != nil {
				made[i] = nil
				cancel() // the others are not wanted any more
			}
		})
	}
	wg.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil && !errors.Is(err, context.Canceled) }); i >= 0 {
		return nil, errors.Join(errs[i], closeAll(made))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(context.Cause(ctx), closeAll(made))
	}
	return made, nil
}

func closeAll(list []sandbox.Sandbox) error {
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, sb := range list {
		if sb != nil {
			wg.Go(func() { errs[i] = sb.Close() })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// runChildren has each child run its program, all at the same time, and describes the children.
func (s *Session) runChildren(ctx context.Context, op string, children []*box, runs []RunRequest, into []ForkChild) {
	var wg sync.WaitGroup
	for i, b := range children {
		if len(runs) == 0 {
			into[i].Sandbox = b.info()
			continue
		}
		run := runs[min(i, len(runs)-1)]
		run.Env = append(slices.Clone(run.Env), forkEnv+"="+strconv.Itoa(i))
		wg.Go(func() {
			res, err := s.runIn(ctx, op, b, run, func() {})
			into[i].Sandbox = b.info()
			if err == nil {
				into[i].Run = &res
			} else {
				into[i].Error = s.r.typed(op, b.id, err)
			}
		})
	}
	wg.Wait()
}
