package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/aethervm/aether/sandbox"
)

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
		files, err := onDisk(data)
		if err != nil {
			r.remark(fmt.Sprintf("snapshot %s is counted as %d bytes: %s", id, record.Bytes, r.scrub(err.Error())))
			files = nil
		}
		snap.kept = r.keptFrom(record.Tenant, Snapshots, record.Bytes, files)
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

// storeNameRE is a snapshot's name in the store of a system that keeps them there. No path looks like it.
var storeNameRE = regexp.MustCompile(`^[a-z0-9]+(/[a-z0-9]+)*:[a-z0-9]+$`)

// owns tells whether a snapshot that a file names is where the runtime would have put it. A path that is relative
// leads wherever the process happens to be.
func (r *Runtime) owns(saved sandbox.Snapshot, data string) bool {
	if !filepath.IsAbs(saved.Ref) {
		kept, err := os.ReadDir(data)
		return err == nil && len(kept) == 0 && storeNameRE.MatchString(saved.Ref)
	}
	ref := filepath.Clean(saved.Ref) // no ".." leads out of data
	return ref == data || strings.HasPrefix(ref, data+string(filepath.Separator))
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
