package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

// Labels of images that hold snapshots, beside those of the sandbox they were taken from.
const (
	labelSnapshot    = "aether.snapshot"     // ID of the snapshot
	labelSnapshotDir = "aether.snapshot.dir" // the directory that the caller gave
)

// snapshotRef is what a Ref looks like. A snapshot comes from a file, so it must not lead to an image
// of somebody else's.
var snapshotRef = regexp.MustCompile(`^aether/snapshot:[a-z2-7]{16}$`)

// snapshotting is a sandbox whose files the engine sees.
type snapshotting struct{ *Sandbox }

var _ sandbox.Snapshotter = (*snapshotting)(nil)

// seesFiles tells whether the engine sees what a container of the runtime writes. It does where the
// container's root is the engine's own mount. gVisor keeps writes to itself by default, so that an
// image committed from such a container would hold none of them.
func (e *engine) seesFiles(runtime string) bool {
	program := filepath.Base(e.info.Runtimes[runtime].Path)
	return runtime == "io.containerd.runc.v2" || program == "runc" || program == "crun" || program == "youki"
}

// Snapshot is Snapshotter.Snapshot. It commits the container's files to an image; dir stays empty.
//
// The engine's checkpoints are not used where it has them: a checkpoint holds the container's first
// process and its descendants. Programs that came by exec are children of the shim, so they, which is
// all that runs in a sandbox, would not be in it.
func (s *snapshotting) Snapshot(ctx context.Context, dir string) (sandbox.Snapshot, error) {
	ctx, stop, err := s.enter(ctx)
	if err != nil {
		return sandbox.Snapshot{}, err
	}
	defer stop()
	id := lease.NewID()
	ref := "aether/snapshot:" + id
	work, release := sheltered(ctx)
	defer release()
	// The engine pauses the container meanwhile, so the files are those of one moment.
	made, err := s.eng.cli.ContainerCommit(work, s.container, client.ContainerCommitOptions{
		Reference: ref,
		Comment:   "snapshot by aether",
		Config: &container.Config{Labels: map[string]string{
			labelSnapshot:    id,
			labelSnapshotDir: dir,
			labelSandbox:     s.id,
			labelLease:       s.owner.ID,
			labelLeaseDir:    s.owner.Dir,
		}},
	})
	var size int64
	if err == nil {
		size, err = s.eng.sizeAbove(work, made.ID, s.origin.image)
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		err = s.fail(ctx, "snapshot", err)
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if undoErr := s.eng.removeSnapshot(undo, ref); undoErr != nil && !client.IsErrConnectionFailed(undoErr) {
			err = errors.Join(err, s.eng.fail(undo, "undo snapshot", s.id, undoErr))
		}
		return sandbox.Snapshot{}, err
	}
	return sandbox.Snapshot{System: system, Kind: sandbox.SnapshotFiles, Ref: ref, Bytes: size, Spec: s.spec}, nil
}

// sizeAbove is the space that an image takes beyond that of the one below it.
func (e *engine) sizeAbove(ctx context.Context, id, base string) (int64, error) {
	top, err := e.cli.ImageInspect(ctx, id)
	if err != nil {
		return 0, err
	}
	below, err := e.cli.ImageInspect(ctx, base)
	if err != nil {
		return 0, err
	}
	return max(0, top.Size-below.Size), nil
}

// Restore is Restorer.Restore.
func (d *Driver) Restore(ctx context.Context, snap sandbox.Snapshot) (sandbox.Sandbox, error) {
	if err := checkSnapshot("restore", snap); err != nil {
		return nil, err
	}
	spec, err := snap.Spec.WithDefaults()
	if err != nil {
		return nil, err
	}
	ctx, eng, owner, done, err := d.begin(ctx, "restore")
	if err != nil {
		return nil, err
	}
	defer done()
	found, err := eng.cli.ImageInspect(ctx, snap.Ref)
	if err != nil {
		return nil, eng.fail(ctx, "restore", "", missing(err))
	}
	// By ID: the sandbox keeps the image in use even when the snapshot is removed.
	return d.start(ctx, eng, owner, spec, origin{image: found.ID, snapshot: true})
}

// RemoveSnapshot is Restorer.RemoveSnapshot.
func (d *Driver) RemoveSnapshot(ctx context.Context, snap sandbox.Snapshot) error {
	if err := checkSnapshot("remove snapshot", snap); err != nil {
		return err
	}
	eng, err := d.connect(ctx)
	if err != nil {
		return err
	}
	return eng.fail(ctx, "remove snapshot", "", eng.removeSnapshot(ctx, snap.Ref))
}

// removeSnapshot takes the snapshot's name away, by force, since sandboxes that were restored from it
// may keep its image in use; the last of them removes it.
func (e *engine) removeSnapshot(ctx context.Context, ref string) error {
	_, err := e.cli.ImageRemove(ctx, ref, client.ImageRemoveOptions{Force: true, PruneChildren: true})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// removeIfUntagged removes the image of a snapshot that was removed while sandboxes used it, unless
// some still do.
func (e *engine) removeIfUntagged(ctx context.Context, id string) error {
	found, err := e.cli.ImageInspect(ctx, id)
	if err == nil && len(found.RepoTags) == 0 {
		_, err = e.cli.ImageRemove(ctx, id, client.ImageRemoveOptions{PruneChildren: true})
	}
	if err == nil || errdefs.IsNotFound(err) || errdefs.IsConflict(err) {
		return nil
	}
	// To the one of two that comes second the engine may say that it does not recognize the image.
	if _, gone := e.cli.ImageInspect(ctx, id); errdefs.IsNotFound(gone) {
		return nil
	}
	return err
}

func checkSnapshot(op string, snap sandbox.Snapshot) error {
	var detail string
	switch {
	case snap.System != system:
		detail = fmt.Sprintf("the snapshot is one of system %q", snap.System)
	case snap.Kind != sandbox.SnapshotFiles:
		detail = fmt.Sprintf("snapshot of kind %q", snap.Kind)
	case !snapshotRef.MatchString(snap.Ref):
		detail = fmt.Sprintf("snapshot reference %q", snap.Ref)
	default:
		return nil
	}
	return &sandbox.Error{Op: op, System: system, Err: sandbox.ErrInvalid, Detail: detail,
		Remedy: "use a snapshot as Snapshot returned it"}
}

func missing(err error) error {
	if !errdefs.IsNotFound(err) {
		return err
	}
	return &sandbox.Error{Op: "restore", System: system, Err: fs.ErrNotExist, Detail: detail(err),
		Remedy: "it was removed; take another one"}
}
