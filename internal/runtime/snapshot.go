package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// snapshot is one that is whole.
type snapshot struct {
	snapshotRecord
	image *hold // nil if the image is not there any more
}

func (r *Runtime) snapshotDir(id string) string { return filepath.Join(r.dir, snapshotsName, id) }

// dataName is the directory of a snapshot that is the driver's.
const dataName = "data"

// Snapshot saves a sandbox, which goes on. The snapshot is the tenant's and stays until it is removed.
func (s *Session) Snapshot(ctx context.Context, req SnapshotRequest) (info SnapshotInfo, err error) {
	ctx, c, err := s.call(ctx, "snapshot", req.Sandbox, CanFork)
	defer c.end(&err)
	if err != nil {
		return info, err
	}
	if len(req.Name) > maxName {
		return info, refuse(CodeInvalid, c.op, fmt.Sprintf("use at most %d bytes", maxName), "the name is too long")
	}
	return do(ctx, c, req.Key, req, true, func() (SnapshotInfo, error) {
		b, err := s.box(c.op, req.Sandbox)
		if err != nil {
			return SnapshotInfo{}, err
		}
		if err := s.affordable(c.op); err != nil {
			return SnapshotInfo{}, err
		}
		info, err := s.snapshot(ctx, c, b, req.Name)
		c.note("snapshot", info.ID)
		return info, err
	})
}

func (s *Session) snapshot(ctx context.Context, c *call, b *box, name string) (info SnapshotInfo, err error) {
	u, err := b.enter(ctx, forWork)
	if err != nil {
		return info, b.reason(ctx, err)
	}
	defer u.end()
	id := newID(prefixSnapshot)
	dir := s.r.snapshotDir(id)
	saved, err := b.save(u, c.op, filepath.Join(dir, dataName))
	if err != nil {
		return info, errors.Join(b.reason(u.ctx, err), os.RemoveAll(dir))
	}
	snap := &snapshot{image: b.image.share(), snapshotRecord: snapshotRecord{
		SnapshotInfo: SnapshotInfo{ID: id, Name: validText(name), System: saved.System, Kind: saved.Kind, Image: b.spec.Image,
			Sandbox: b.id, Bytes: saved.Bytes, Created: time.Now().UTC().Round(0)},
		Tenant: s.tenant.ID, Saved: saved, Spec: b.spec, Interpreters: b.interpreters(saved.Kind),
	}}
	err = s.r.store.put(bucketSnapshots, id, snap.snapshotRecord)
	if err != nil {
		return info, errors.Join(err, s.r.discard(context.WithoutCancel(ctx), snap))
	}
	s.r.mu.Lock()
	s.r.snapshots[id] = snap
	s.r.mu.Unlock()
	return snap.SnapshotInfo, nil
}

// save has the driver save a sandbox to a directory that is made for it.
func (b *box) save(u *use, op, dir string) (sandbox.Snapshot, error) {
	saver, ok := u.sb.(sandbox.Snapshotter)
	if _, restores := b.driver.(sandbox.Restorer); !ok || !restores {
		return sandbox.Snapshot{}, refuse(CodeUnsupported, op, b.s.r.systems.able(u.ctx, b.driver.System()),
			"%s cannot save a sandbox here", b.driver.System())
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return sandbox.Snapshot{}, fmt.Errorf("make a directory for the snapshot: %w", err)
	}
	return saver.Snapshot(u.ctx, dir)
}

// interpreters are those that a copy of the box has too.
func (b *box) interpreters(kind sandbox.SnapshotKind) []Language {
	if kind != sandbox.SnapshotFull {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []Language
	for name, in := range b.interps {
		if in.begun.Load() {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// copied are the interpreters of a box that is a copy. Whether one listens there shows when it is
// asked.
func copied(names []Language) map[Language]*interpreter {
	m := map[Language]*interpreter{}
	for _, name := range names {
		m[name] = newInterpreter(true)
	}
	return m
}

// snapshot finds one of a tenant.
func (s *Session) findSnapshot(op, id string) (*snapshot, error) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if snap := s.r.snapshots[id]; snap != nil && snap.Tenant == s.tenant.ID {
		return snap, nil
	}
	return nil, refuse(CodeNotFound, op, "list shows the snapshots there are", "there is no snapshot %q", clip(id, 64))
}

// Restore makes a sandbox from a snapshot.
func (s *Session) Restore(ctx context.Context, req RestoreRequest) (info SandboxInfo, err error) {
	ctx, c, err := s.call(ctx, "restore", "", CanFork)
	c.note("snapshot", req.Snapshot)
	defer c.end(&err)
	if err != nil {
		return info, err
	}
	return do(ctx, c, req.Key, req, false, func() (SandboxInfo, error) {
		snap, err := s.findSnapshot(c.op, req.Snapshot)
		if err != nil {
			return SandboxInfo{}, err
		}
		spec := snap.Spec
		spec.TTL, spec.Labels = req.TTL, req.Labels
		if req.Idle != (IdlePolicy{}) {
			spec.Idle = req.Idle
		}
		spec = s.r.complete(spec)
		if err := errors.Join(s.allow(c.op, spec), s.affordable(c.op)); err != nil {
			return SandboxInfo{}, err
		}
		if no := s.ledger.reserve(1, int64(spec.MemoryMiB)); no != nil {
			return SandboxInfo{}, no.err(c.op, s.nextReap())
		}
		d, sb, err := s.r.restore(ctx, c.op, snap)
		if err != nil {
			s.ledger.release(1, int64(spec.MemoryMiB))
			return SandboxInfo{}, err
		}
		b := &box{driver: d, spec: spec, why: "restored", from: snap.ID, image: snap.image.share(), digest: snap.Saved.Spec.Image.Digest, interps: copied(snap.Interpreters)}
		if err := s.register(b, sb); err != nil {
			return SandboxInfo{}, err
		}
		c.sandbox = b.id
		return b.info(), nil
	})
}

// restore has the driver make a sandbox from a snapshot.
func (r *Runtime) restore(ctx context.Context, op string, snap *snapshot) (sandbox.Driver, sandbox.Sandbox, error) {
	if snap.image == nil {
		return nil, nil, refuse(CodeNotFound, op, "build it again with `aether image build`", "the image of the snapshot, %s, is not there any more", snap.Saved.Spec.Image.Digest)
	}
	p := r.systems.drivers[snap.System]
	if p == nil {
		return nil, nil, refuse(CodeUnavailable, op, "open the runtime with it", "this runtime has no driver for %s", snap.System)
	}
	d, ok := p.driver.(sandbox.Restorer)
	if !ok {
		return nil, nil, refuse(CodeUnsupported, op, "use the version of aether that it was taken with", "%s cannot restore a snapshot here", snap.System)
	}
	sb, err := d.Restore(ctx, snap.Saved)
	return p.driver, sb, err
}

// Rollback puts a sandbox back to a snapshot of it, or of another one that is like it. What runs in it
// ends; its ID, age and policies stay.
func (s *Session) Rollback(ctx context.Context, req RollbackRequest) (info SandboxInfo, err error) {
	ctx, c, err := s.call(ctx, "rollback", req.Sandbox, CanFork)
	c.note("snapshot", req.Snapshot)
	defer c.end(&err)
	if err != nil {
		return info, err
	}
	b, err := s.box(c.op, req.Sandbox)
	if err != nil {
		return info, err
	}
	snap, err := s.findSnapshot(c.op, req.Snapshot)
	if err != nil {
		return info, err
	}
	if snap.System != b.driver.System() || snap.Saved.Spec.Image.Digest != b.digest || snap.Spec.VCPUs != b.spec.VCPUs || snap.Spec.MemoryMiB != b.spec.MemoryMiB || snap.Spec.Network != b.spec.Network || !slices.Equal(snap.Spec.Egress, b.spec.Egress) {
		return info, refuse(CodeConflict, c.op, "restore the snapshot as a new sandbox", "the snapshot is of another system, image, size or network than the sandbox")
	}
	if err := s.affordable(c.op); err != nil {
		return info, err
	}
	if err := b.rollback(ctx, c.op, snap); err != nil {
		return info, b.reason(ctx, err)
	}
	return b.info(), nil
}

func (b *box) rollback(ctx context.Context, op string, snap *snapshot) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(b.life, func() { cancel(context.Cause(b.life)) })()
	if err := b.lockTurn(ctx); err != nil {
		return err
	}
	defer b.unlockTurn()
	_, sb, err := b.s.r.restore(ctx, op, snap)
	if err != nil {
		return err
	}
	b.bill()
	b.mu.Lock()
	if b.life.Err() != nil { // killed meanwhile, without the new one
		b.mu.Unlock()
		return errors.Join(context.Cause(b.life), sb.Close())
	}
	old := b.sb
	b.sb, b.paused, b.cpu, b.interps = sb, false, 0, copied(snap.Interpreters)
	b.generation++
	b.active = time.Now()
	b.mu.Unlock()
	if err := old.Close(); err != nil { // what ran in it has ended; the box is what it was to be
		b.s.r.log.Error("could not close what a sandbox was before it was rolled back", "sandbox", b.id, "error", err)
	}
	return nil
}

// Snapshots lists those of the tenant.
func (s *Session) Snapshots(ctx context.Context) (list []SnapshotInfo, err error) {
	_, c, err := s.call(ctx, "snapshots", "", CanRead)
	c.quiet = true
	defer c.end(&err)
	if err != nil {
		return nil, err
	}
	return s.r.snapshotInfos(s.tenant.ID), nil
}

func (r *Runtime) snapshotInfos(tenant string) []SnapshotInfo {
	list := []SnapshotInfo{}
	for _, snap := range r.snapshotsOf(tenant) {
		list = append(list, snap.SnapshotInfo)
	}
	slices.SortFunc(list, func(a, b SnapshotInfo) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

func (r *Runtime) snapshotsOf(tenant string) []*snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*snapshot
	for _, snap := range r.snapshots {
		if snap.Tenant == tenant {
			list = append(list, snap)
		}
	}
	return list
}

// RemoveSnapshot frees a snapshot. Sandboxes that were restored from it live on.
func (s *Session) RemoveSnapshot(ctx context.Context, snapshotID string) (err error) {
	ctx, c, err := s.call(ctx, "remove snapshot", "", CanFork)
	c.note("snapshot", snapshotID)
	defer c.end(&err)
	if err != nil {
		return err
	}
	snap, err := s.findSnapshot(c.op, snapshotID)
	if err != nil {
		return err
	}
	return s.r.removeSnapshot(ctx, snap)
}

func (r *Runtime) removeSnapshot(ctx context.Context, snap *snapshot) error {
	r.mu.Lock()
	had := r.snapshots[snap.ID] == snap
	delete(r.snapshots, snap.ID)
	r.mu.Unlock()
	if !had { // somebody else is at it
		return nil
	}
	err := r.discard(ctx, snap)
	if err != nil {
		// It is not whole any more, but what is left has a name, so that it can be tried again.
		r.mu.Lock()
		r.snapshots[snap.ID] = &snapshot{snapshotRecord: snap.snapshotRecord}
		r.mu.Unlock()
		return err
	}
	return r.store.remove(bucketSnapshots, snap.ID)
}

// discard frees what a snapshot holds.
func (r *Runtime) discard(ctx context.Context, snap *snapshot) error {
	snap.image.release()
	if p := r.systems.drivers[snap.System]; p != nil {
		if d, ok := p.driver.(sandbox.Restorer); ok {
			if err := d.RemoveSnapshot(ctx, snap.Saved); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(r.snapshotDir(snap.ID))
}

// recoverSnapshots reads the snapshots that there are, and removes what was not finished.
func (r *Runtime) recoverSnapshots(ctx context.Context) error {
	records, err := all[snapshotRecord](r.store, bucketSnapshots, func(key string, err error) {
		r.remark(fmt.Sprintf("a snapshot in the database cannot be read, and is left there: %v", err))
	})
	if err != nil {
		return err
	}
	var lost []string
	for id, record := range records {
		data := filepath.Join(r.snapshotDir(id), dataName)
		if _, err := os.Stat(data); errors.Is(err, fs.ErrNotExist) || !r.owns(record.Saved, data) {
			lost = append(lost, id)
			continue
		}
		snap := &snapshot{snapshotRecord: record}
		img, release, err := r.cfg.Images.Resolve(ctx, record.Saved.Spec.Image.Digest)
		if err == nil {
			snap.image = newHold(release)
			snap.Saved.Spec.Image = img // the store may have moved
		} else {
			r.remark(fmt.Sprintf("snapshot %s cannot be restored: its image: %s", id, r.scrub(err.Error())))
		}
		r.snapshots[id] = snap
	}
	slices.Sort(lost)
	r.found.Lost = lost
	r.found.Snapshots = len(r.snapshots)
	if err := r.store.remove(bucketSnapshots, lost...); err != nil {
		return err
	}
	return r.removeUnfinished()
}

// owns tells whether a snapshot that a file names is where the runtime would have put it.
func (r *Runtime) owns(saved sandbox.Snapshot, data string) bool {
	ref := filepath.Clean(saved.Ref) // no ".." leads out of data
	return !filepath.IsAbs(ref) || ref == data || strings.HasPrefix(ref, data+string(filepath.Separator))
}

// removeUnfinished removes directories of snapshots that are in no record: the process was killed
// while it made or removed them. Drivers that keep a snapshot elsewhere find it abandoned by that.
func (r *Runtime) removeUnfinished() error {
	root := filepath.Join(r.dir, snapshotsName)
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for snapshots: %w", err)
	}
	errs := []error{os.RemoveAll(filepath.Join(r.dir, scratchName))}
	for _, e := range entries {
		if r.snapshots[e.Name()] == nil {
			r.found.Lost = append(r.found.Lost, e.Name())
			errs = append(errs, os.RemoveAll(filepath.Join(root, e.Name())))
		}
	}
	slices.Sort(r.found.Lost)
	r.found.Lost = slices.Compact(r.found.Lost)
	return errors.Join(errs...)
}
