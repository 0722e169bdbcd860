package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/aethervm/aether/sandbox"
)

// imageFiles are the files of a checkpoint. The first is the one without which there is none.
func imageFiles() []string { return []string{"checkpoint.img", "pages.img", "pages_meta.img"} }

// Snapshot is sandbox.Snapshotter's.
func (s *Sandbox) Snapshot(callerCtx context.Context, dir string) (sandbox.Snapshot, error) {
	const op = "snapshot"
	ctx, done, err := s.begin(callerCtx, op)
	if err != nil {
		return sandbox.Snapshot{}, err
	}
	defer done()
	if !filepath.IsAbs(dir) {
		return sandbox.Snapshot{}, &sandbox.Error{Op: op, System: System, Sandbox: s.id, Err: sandbox.ErrInvalid,
			Detail: fmt.Sprintf("the directory is %q", dir), Remedy: "it must be an absolute path"}
	}
	if s.isPaused() {
		return sandbox.Snapshot{}, &sandbox.Error{Op: op, System: System, Sandbox: s.id, Err: sandbox.ErrUnsupported,
			Detail: "the sandbox is paused", Remedy: "resume it first"}
	}
	size := int64(0)
	if _, err = s.runsc.call(ctx, "checkpoint", "--leave-running", "--image-path", dir, s.id); err == nil {
		size, err = imageSize(dir)
	}
	if err != nil {
		return sandbox.Snapshot{}, errors.Join(s.fail(callerCtx, op, err), removeImage(dir))
	}
	return sandbox.Snapshot{System: System, Kind: sandbox.SnapshotFull, Ref: dir, Bytes: size, Spec: s.spec}, nil
}

// Restore is sandbox.Restorer's. The sandbox has a host name of its own; its clock and its random
// numbers are the sentry's, which takes both from the host.
func (d *Driver) Restore(ctx context.Context, snap sandbox.Snapshot) (sandbox.Sandbox, error) {
	const op = "restore"
	if err := ours(op, snap); err != nil {
		return nil, err
	}
	spec, err := checked(op, snap.Spec)
	if err != nil {
		return nil, err
	}
	if _, err := imageSize(snap.Ref); err != nil {
		return nil, &sandbox.Error{Op: op, System: System, Err: fs.ErrNotExist, Detail: err.Error(), Remedy: "take the snapshot again"}
	}
	return d.start(ctx, op, spec, snap.Ref)
}

// RemoveSnapshot is sandbox.Restorer's. The directory itself stays: it is the caller's.
func (d *Driver) RemoveSnapshot(_ context.Context, snap sandbox.Snapshot) error {
	const op = "remove snapshot"
	if err := ours(op, snap); err != nil {
		return err
	}
	return typed(op, "", removeImage(snap.Ref))
}

func ours(op string, snap sandbox.Snapshot) error {
	if snap.System == System && filepath.IsAbs(snap.Ref) {
		return nil
	}
	return &sandbox.Error{Op: op, System: System, Err: sandbox.ErrInvalid,
		Detail: fmt.Sprintf("a snapshot of %q at %q", snap.System, snap.Ref), Remedy: "use one that Snapshot of this system has returned"}
}

// imageSize returns the space that a checkpoint takes on disk.
func imageSize(dir string) (int64, error) {
	var sum int64
	for i, name := range imageFiles() {
		info, err := os.Stat(filepath.Join(dir, name))
		if i > 0 && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("look at the checkpoint: %w", err)
		}
		sum += info.Size()
	}
	return sum, nil
}

// removeImage removes the files of a checkpoint and no others: the directory may come from
// outside, in a stored Snapshot.
func removeImage(dir string) error {
	var errs []error
	for _, name := range imageFiles() {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
