package aethervm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/filelock"
	"github.com/aethervm/aether/internal/lease"
)

// writeSynced writes a new file and has it written to disk.
func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// syncDir has a directory's names written to disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// sweep removes what makers have left that were killed, or could not remove it. The caller holds the lock. What it cannot
// remove, the next one does.
func (t *templates) sweep() error {
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(t.dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), contentPrefix):
			_ = t.dropUnnamed(e.Name())
		case !strings.HasPrefix(e.Name(), makingPrefix):
		case !e.IsDir(): // a link that was to become a name
			_ = os.Remove(path)
		default:
			if dead, err := filelock.Open(filepath.Join(path, lockName), filelock.Exclusive, 0o600); err == nil {
				_ = errors.Join(os.RemoveAll(path), dead.Close())
			}
		}
	}
	return nil
}

// dropUnnamed removes a template that no name leads to. The caller holds the lock. It goes under another name first: who has
// opened its file before may be about to write its stamp.
func (t *templates) dropUnnamed(content string) error {
	if !strings.HasPrefix(content, contentPrefix) {
		return nil
	}
	names, err := os.ReadDir(filepath.Join(t.dir, namesName))
	if err != nil {
		return err
	}
	for _, n := range names {
		to, err := os.Readlink(filepath.Join(t.dir, namesName, n.Name()))
		if err != nil && !errors.Is(err, unix.EINVAL) { // no link leads nowhere
			return err
		}
		if err == nil && filepath.Base(to) == content {
			return nil
		}
	}
	away := filepath.Join(t.dir, makingPrefix+lease.NewID())
	if err := os.Rename(filepath.Join(t.dir, content), away); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return os.RemoveAll(away)
}
