package aethervm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/sandbox"
)

// Snapshot is sandbox.Snapshotter's. The programs stand still for as long as they do for a fork; what was taken is written
// to dir while they go on.
func (s *Sandbox) Snapshot(ctx context.Context, dir string) (snap sandbox.Snapshot, err error) {
	const op = "snapshot"
	if err := checkRef(op, dir); err != nil {
		return snap, err
	}
	err = s.Operate(ctx, op, func(ctx context.Context) error {
		b, err := s.branch(ctx, op, 1)
		if err != nil {
			return err
		}
		k, err := s.original(b).keep(ctx, dir, false, nil)
		if err = errors.Join(err, b.Close()); err != nil {
			return errors.Join(err, removeKept(dir))
		}
		snap = sandbox.Snapshot{System: System, Kind: sandbox.SnapshotFull, Ref: dir, Bytes: k.bytes, Spec: s.spec}
		return nil
	})
	return snap, err
}

// Restore is sandbox.Restorer's. What was taken elsewhere, or has been copied or changed since, is read as a whole once; else
// its memory is mapped and not read.
func (d *Driver) Restore(ctx context.Context, snap sandbox.Snapshot) (sandbox.Sandbox, error) {
	const op = "restore"
	if snap.System != System || snap.Kind != sandbox.SnapshotFull {
		return nil, &sandbox.Error{Op: op, System: System, Err: sandbox.ErrInvalid,
			Detail: fmt.Sprintf("the snapshot is of system %q and kind %q", snap.System, snap.Kind)}
	}
	if err := checkRef(op, snap.Ref); err != nil {
		return nil, err
	}
	spec, err := snap.Spec.WithDefaults()
	if err != nil {
		return nil, err
	}
	if err := needKVM(ctx, op); err != nil {
		return nil, err
	}
	f, err := snapshot.Open(filepath.Join(snap.Ref, machineName))
	if err != nil {
		return nil, keptError(ctx, op, err)
	}
	o, err := d.open(ctx, snap.Ref, f, spec)
	if err != nil {
		return nil, keptError(ctx, op, err)
	}
	s, err := o.copy(ctx, op, nil)
	if err = errors.Join(err, o.close()); err != nil {
		if s != nil {
			err = errors.Join(err, s.Close())
		}
		return nil, keptError(ctx, op, err)
	}
	return s, nil
}

// RemoveSnapshot is sandbox.Restorer's.
func (d *Driver) RemoveSnapshot(ctx context.Context, snap sandbox.Snapshot) error {
	const op = "remove snapshot"
	if snap.System != System {
		return &sandbox.Error{Op: op, System: System, Err: sandbox.ErrInvalid, Detail: fmt.Sprintf("the snapshot is of system %q", snap.System)}
	}
	if err := checkRef(op, snap.Ref); err != nil {
		return err
	}
	if err := removeKept(snap.Ref); err != nil {
		return keptError(ctx, op, err)
	}
	return nil
}

// checkRef refuses a directory that depends on where this process happens to be.
func checkRef(op, dir string) error {
	if filepath.IsAbs(dir) {
		return nil
	}
	return &sandbox.Error{Op: op, System: System, Err: sandbox.ErrInvalid,
		Detail: fmt.Sprintf("the directory is %.80q", dir), Remedy: "give it an absolute path"}
}

// removeKept removes the files of a machine from a directory. One that is gone is no error.
func removeKept(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !isKept(e.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
