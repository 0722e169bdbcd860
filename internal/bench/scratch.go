package bench

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

// snapshotPrefix begins the names of the files that remember snapshots, templatePrefix those of templates.
const (
	snapshotPrefix = "snapshot-"
	templatePrefix = "template-"
)

// scratch is a leased directory for snapshots. Each snapshot is remembered in it as JSON, because
// one may also lie in the store of its system, where no driver's Sweep touches it. So is each template, which always does.
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

// forgetAll removes the snapshots and templates that are remembered in dir.
func forgetAll(ctx context.Context, dir string, drivers []sandbox.Driver) error {
	errs := []error{forgetAgents(ctx, dir, drivers)}
	for prefix, forget := range map[string]func(context.Context, string, []sandbox.Driver) error{
		snapshotPrefix: forgetOne, templatePrefix: forgetTemplate,
	} {
		names, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
		errs = append(errs, err)
		for _, name := range names {
			errs = append(errs, forget(ctx, name, drivers))
		}
	}
	return errors.Join(errs...)
}

// rememberTemplate notes a template that is about to be made: it has its name before its maker knows.
func (s *scratch) rememberTemplate(t sandbox.Template) (forget func() error, err error) {
	name := filepath.Join(s.lease.Dir, templatePrefix+t.Name)
	return func() error { return removeIfThere(name) }, note(name, t)
}

func note(file string, what any) error {
	b, err := json.Marshal(what)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

// forgetTemplate removes a template whose maker is dead, if it was made.
func forgetTemplate(ctx context.Context, file string, drivers []sandbox.Driver) error {
	return forgetNoted(ctx, file, drivers, func(t sandbox.Template) string { return t.System },
		func(ctx context.Context, d sandbox.Templater, t sandbox.Template) error {
			err := d.RemoveTemplate(ctx, t.Name)
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return err
		})
}

func forgetOne(ctx context.Context, file string, drivers []sandbox.Driver) error {
	return forgetNoted(ctx, file, drivers, func(s sandbox.Snapshot) string { return s.System },
		func(ctx context.Context, d sandbox.Restorer, s sandbox.Snapshot) error {
			return d.RemoveSnapshot(ctx, s)
		})
}

// forgetNoted removes what a file says, by the driver of its system, which must be a D.
func forgetNoted[T, D any](ctx context.Context, file string, drivers []sandbox.Driver, system func(T) string, remove func(context.Context, D, T) error) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var what T
	if json.Unmarshal(b, &what) != nil {
		// Killed while it was being noted, which is before a template is made or a snapshot used: nothing that
		// lies outside of dir can be told from it.
		return nil
	}
	for _, d := range drivers {
		if able, ok := d.(D); ok && d.System() == system(what) {
			ctx, cancel := context.WithTimeout(ctx, cleanupLimit)
			defer cancel()
			return remove(ctx, able, what)
		}
	}
	return fmt.Errorf("no driver for %q at hand", system(what))
}

// dir makes an empty directory for one snapshot.
func (s *scratch) dir() (string, error) { return os.MkdirTemp(s.lease.Dir, "files-") }

func (s *scratch) file(snap sandbox.Snapshot) string {
	sum := sha256.Sum256([]byte(snap.System + "\x00" + snap.Ref))
	return filepath.Join(s.lease.Dir, snapshotPrefix+hex.EncodeToString(sum[:8]))
}

func (s *scratch) remember(snap sandbox.Snapshot) error { return note(s.file(snap), snap) }

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
