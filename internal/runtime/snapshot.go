package runtime

import (
	"context"
	"errors"
	"fmt"
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
	kept  *charge
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
	kept, err := s.keep(c.op, Snapshots, b.spec.MemoryMiB)
	if err != nil {
		return info, err
	}
	u, err := b.enter(ctx, forWork)
	if err != nil {
		kept.release()
		return info, b.reason(ctx, err)
	}
	defer u.end()
	id := newID(prefixSnapshot)
	dir := s.r.snapshotDir(id)
	saved, err := b.save(u, c.op, filepath.Join(dir, dataName))
	if err != nil {
		kept.release()
		return info, errors.Join(b.reason(u.ctx, err), os.RemoveAll(dir))
	}
	spec := b.spec
	spec.Secrets = nil // not even their names
	snap := &snapshot{image: b.image.share(), kept: kept, snapshotRecord: snapshotRecord{
		SnapshotInfo: SnapshotInfo{ID: id, Name: validText(name), System: saved.System, Kind: saved.Kind, Image: b.spec.Image,
			Sandbox: b.id, Bytes: saved.Bytes, Created: time.Now().UTC().Round(0)},
		Tenant: s.tenant.ID, Saved: saved, Spec: spec, Interpreters: b.interpreters(saved.Kind),
	}}
	files, err := onDisk(filepath.Join(dir, dataName))
	if err == nil {
		err = kept.settle(c.op, saved.Bytes, files)
	}
	if err == nil {
		err = s.r.store.put(bucketSnapshots, id, snap.snapshotRecord)
	}
	if err != nil {
		return info, errors.Join(err, s.r.discardOrKeep(ctx, snap))
	}
	s.r.mu.Lock()
	s.r.snapshots[id] = snap
	s.r.mu.Unlock()
	s.tell(Event{Type: EventSnapshotCreated, Sandbox: b.id, Snapshot: id})
	return snap.SnapshotInfo, nil
}

// save has the driver save a sandbox to a directory that is made for it.
func (b *box) save(u *use, op, dir string) (sandbox.Snapshot, error) {
	saver, ok := u.raw.(sandbox.Snapshotter)
	if _, restores := b.driver.(sandbox.Restorer); !ok || !restores {
		return sandbox.Snapshot{}, refuse(CodeUnsupported, op, b.s.r.systems.able(u.ctx, b.driver.System()),
			"%s cannot save a sandbox here", b.driver.System())
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return sandbox.Snapshot{}, fmt.Errorf("make a directory for the snapshot: %w", err)
	}
	done := b.drive(u.ctx, "snapshot")
	saved, err := saver.Snapshot(u.ctx, dir)
	done(&err)
	return saved, err
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

// findSnapshot finds one of a tenant. Somebody may remove it at any moment.
func (s *Session) findSnapshot(op, id string) (*snapshot, error) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	return s.findLocked(op, id)
}

// findLocked is findSnapshot for callers that hold the runtime's mu.
func (s *Session) findLocked(op, id string) (*snapshot, error) {
	if snap := s.r.snapshots[id]; snap != nil && snap.Tenant == s.tenant.ID {
		return snap, nil
	}
	return nil, refuse(CodeNotFound, op, "list shows the snapshots there are", "there is no snapshot %q", clip(id, 64))
}

// holdSnapshot is findSnapshot with a share of the snapshot's image, so that it is not freed meanwhile; it is nil
// if the image is not there.
func (s *Session) holdSnapshot(op, id string) (*snapshot, *hold, error) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	snap, err := s.findLocked(op, id)
	if err != nil {
		return nil, nil, err
	}
	return snap, snap.image.share(), nil
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
		snap, image, err := s.holdSnapshot(c.op, req.Snapshot)
		if err != nil {
			return SandboxInfo{}, err
		}
		taken := false
		defer func() {
			if !taken {
				image.release()
			}
		}()
		spec := snap.Spec
		spec.TTL, spec.Labels = req.TTL, req.Labels
		if req.Idle != (IdlePolicy{}) {
			spec.Idle = req.Idle
		}
		spec = s.r.complete(spec)
		if err := errors.Join(s.allow(c.op, spec), s.r.limitKept(c.op, "snapshot", snap.Saved.Spec, snap.Spec), s.affordable(c.op)); err != nil {
			return SandboxInfo{}, err
		}
		if no := s.ledger.reserve(1, int64(spec.MemoryMiB)); no != nil {
			return SandboxInfo{}, no.err(c.op, s.nextReap())
		}
		d, sb, err := s.r.restore(ctx, c.op, snap, image)
		if err != nil {
			s.ledger.release(1, int64(spec.MemoryMiB))
			return SandboxInfo{}, err
		}
		taken = true // the box releases it
		b := &box{driver: d, spec: spec, why: "restored", from: snap.ID, image: image, digest: snap.Saved.Spec.Image.Digest, interps: copied(snap.Interpreters)}
		if err := s.register(b, sb); err != nil {
			return SandboxInfo{}, err
		}
		c.sandbox = b.id
		return b.info(), nil
	})
}

// restore has the driver make a sandbox from a snapshot, whose image the caller holds.
func (r *Runtime) restore(ctx context.Context, op string, snap *snapshot, image *hold) (sandbox.Driver, sandbox.Sandbox, error) {
	if image == nil {
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
	done := r.drive(ctx, snap.System, "restore")
	sb, err := d.Restore(ctx, snap.Saved)
	done(&err)
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
	if len(b.spec.Secrets) > 0 {
		return info, refuse(CodeUnsupported, c.op, "restore the snapshot as a new sandbox, without secrets", "the sandbox has secrets, which snapshots have not")
	}
	snap, image, err := s.holdSnapshot(c.op, req.Snapshot)
	if err != nil {
		return info, err
	}
	defer image.release()
	if snap.System != b.driver.System() || snap.Saved.Spec.Image.Digest != b.digest || snap.Spec.VCPUs != b.spec.VCPUs || snap.Spec.MemoryMiB != b.spec.MemoryMiB || snap.Spec.Network != b.spec.Network || !slices.Equal(snap.Spec.Egress, b.spec.Egress) {
		return info, refuse(CodeConflict, c.op, "restore the snapshot as a new sandbox", "the snapshot is of another system, image, size or network than the sandbox")
	}
	if err := s.affordable(c.op); err != nil {
		return info, err
	}
	if err := b.rollback(ctx, c.op, snap, image); err != nil {
		return info, b.reason(ctx, err)
	}
	return b.info(), nil
}

func (b *box) rollback(ctx context.Context, op string, snap *snapshot, image *hold) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(b.life, func() { cancel(context.Cause(b.life)) })()
	if err := b.lockTurn(ctx); err != nil {
		return err
	}
	defer b.unlockTurn()
	_, sb, err := b.s.r.restore(ctx, op, snap, image)
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
	b.sb, b.paused, b.cpu, b.sent, b.interps = sb, false, 0, 0, copied(snap.Interpreters)
	b.starved = false
	b.generation++
	b.active = time.Now()
	b.mu.Unlock()
	b.s.tell(Event{Type: EventRolledBack, Sandbox: b.id, Snapshot: snap.ID})
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
	// The record goes first: what has none, the next process removes, should this one be killed in between.
	if err := r.store.remove(bucketSnapshots, snap.ID); err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.snapshots[snap.ID] = snap
		return err
	}
	if err := r.discardOrKeep(ctx, snap); err != nil {
		return err
	}
	r.events.add(snap.Tenant, Event{Type: EventSnapshotRemoved, Snapshot: snap.ID})
	return nil
}

// discardOrKeep frees what a snapshot holds, which is in no list. What cannot be removed is not whole, but it is put into the list,
// so that it has a name to be removed by. Whoever asked may be gone: nothing is left by half for that.
func (r *Runtime) discardOrKeep(ctx context.Context, snap *snapshot) error {
	err := r.discard(context.WithoutCancel(ctx), snap)
	if err == nil {
		return nil
	}
	err = errors.Join(err, r.store.put(bucketSnapshots, snap.ID, snap.snapshotRecord))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snapshots[snap.ID] = &snapshot{snapshotRecord: snap.snapshotRecord, kept: snap.kept}
	return err
}

// discard frees what a snapshot holds.
func (r *Runtime) discard(ctx context.Context, snap *snapshot) error {
	snap.image.release()
	if p := r.systems.drivers[snap.System]; p != nil {
		if d, ok := p.driver.(sandbox.Restorer); ok {
			done := r.drive(ctx, snap.System, "remove snapshot")
			err := d.RemoveSnapshot(ctx, snap.Saved)
			if done(&err); err != nil {
				return err
			}
		}
	}
	if err := os.RemoveAll(r.snapshotDir(snap.ID)); err != nil {
		return err
	}
	snap.kept.release()
	return nil
}
