package bench

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

// snapshotPrefix begins the names of the files that remember snapshots.
const snapshotPrefix = "snapshot-"

// scratch is a leased directory for snapshots. Each snapshot is remembered in it as JSON, because
// one may also lie in the store of its system, where no driver's Sweep touches it.
type scratch struct{ lease *lease.Lease }

// newScratch leases a directory below root, after clearing those of dead processes.
func newScratch(ctx context.Context, root string, drivers []sandbox.Driver) (*scratch, error) {
	if root == "" {
		state, err := hostdir.State()
		if err != nil {
			return nil, err
		}
		root = filepath.Join(state, "bench")
	}
	dead, err := lease.Dead(root)
	if err != nil {
		return nil, err
	}
	for _, d := range dead {
		if forgetAll(ctx, d.Dir, drivers) != nil {
			d.Abandon() // its driver is not at hand, or fails: a later bench may do better
			continue
		}
		if err := d.Release(); err != nil {
			return nil, err
		}
	}
	l, err := lease.Acquire(root)
	if err != nil {
		return nil, err
	}
	return &scratch{l}, nil
}

// forgetAll removes the snapshots that are remembered in dir.
func forgetAll(ctx context.Context, dir string, drivers []sandbox.Driver) error {
	names, err := filepath.Glob(filepath.Join(dir, snapshotPrefix+"*"))
	if err != nil {
		return err
	}
	errs := []error{forgetAgents(ctx, dir, drivers)}
	for _, name := range names {
		errs = append(errs, forgetOne(ctx, name, drivers))
	}
	return errors.Join(errs...)
}

func forgetOne(ctx context.Context, name string, drivers []sandbox.Driver) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var snap sandbox.Snapshot
	if json.Unmarshal(b, &snap) != nil {
		// Killed while it was being written, which is before the snapshot was used: nothing that
		// lies outside of dir can be told from it.
		return nil
	}
	for _, d := range drivers {
		if r, ok := d.(sandbox.Restorer); ok && d.System() == snap.System {
			ctx, cancel := context.WithTimeout(ctx, cleanupLimit)
			defer cancel()
			return r.RemoveSnapshot(ctx, snap)
		}
	}
	return fmt.Errorf("no driver for %q at hand", snap.System)
}

// dir makes an empty directory for one snapshot.
func (s *scratch) dir() (string, error) { return os.MkdirTemp(s.lease.Dir, "files-") }

func (s *scratch) file(snap sandbox.Snapshot) string {
	sum := sha256.Sum256([]byte(snap.System + "\x00" + snap.Ref))
	return filepath.Join(s.lease.Dir, snapshotPrefix+hex.EncodeToString(sum[:8]))
}

func (s *scratch) remember(snap sandbox.Snapshot) error {
	b, err := json.Marshal(snap)
	if err != nil {
		return err
	}
	return os.WriteFile(s.file(snap), b, 0o600)
}

func (s *scratch) forget(snap sandbox.Snapshot) error { return removeIfThere(s.file(snap)) }

func (s *scratch) close() error { return s.lease.Release() }

// secret makes a file of the host that no sandbox may read.
func (s *scratch) secret() (name string, remove func(), err error) {
	f, err := os.CreateTemp(s.lease.Dir, "secret-")
	if err != nil {
		return "", nil, err
	}
	_, err = f.WriteString("of the host\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return "", nil, errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), func() { _ = os.Remove(f.Name()) }, nil
}
