package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/filelock"
	"github.com/aethervm/aether/internal/lease"
)

const (
	// endPatience is how long what a killed tool has started may take to end.
	endPatience = 10 * time.Second
	removePoll  = 100 * time.Millisecond
)

// Build makes the lab of the given state directory (see hostdir.State) in dir and returns it. What
// is there already is kept: a second build of the same things takes a moment. Of several builds at
// once one works while the others wait. progress, which may be nil, is told what is being done. On
// error, and when ctx ends, the lab is as it was.
func Build(ctx context.Context, dir, state string, progress func(phase string)) (_ Image, err error) {
	if progress == nil {
		progress = func(string) {}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Image{}, fmt.Errorf("build lab: %w", err)
	}
	guard, err := filelock.Wait(ctx, filepath.Join(dir, lockName), filelock.Exclusive, 0o644, func() { progress("wait for another build") })
	if err != nil {
		return Image{}, fmt.Errorf("build lab: %w", err)
	}
	defer func() { err = errors.Join(err, guard.Close()) }()
	if err := sweep(dir); err != nil {
		return Image{}, fmt.Errorf("build lab: %w", err)
	}
	i, err := build(ctx, dir, state, progress)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return Image{}, fmt.Errorf("build lab: %w", err)
	}
	return i, nil
}

func build(ctx context.Context, dir, state string, progress func(string)) (_ Image, err error) {
	peers, peersKey, hold, err := findPeers(state)
	if err != nil {
		return Image{}, err
	}
	defer func() { err = errors.Join(err, hold.Close()) }()
	work, err := lease.Acquire(filepath.Join(dir, tmpName))
	if err != nil {
		return Image{}, err
	}
	defer func() { err = errors.Join(err, removeTree(work.Dir), work.Release()) }()

	i := Image{Base: basePrefix + baseKey(), Peers: peersPrefix + peersKey, dir: dir}
	old, openErr := Open(dir) // old is empty on error
	if i.Emulator, err = ensureEmulator(ctx, dir, work.Dir, old, progress); err != nil {
		return Image{}, err
	}
	err = ensure(filepath.Join(dir, i.Base), filepath.Join(work.Dir, "base"), func(tmp string) error {
		return makeBase(ctx, tmp, work.Dir, progress)
	})
	if err != nil {
		return Image{}, err
	}
	err = ensure(filepath.Join(dir, i.Peers), filepath.Join(work.Dir, "peers-made"), func(tmp string) error {
		return makePeers(ctx, tmp, work.Dir, peers, progress)
	})
	if err != nil {
		return Image{}, err
	}
	if openErr == nil && old.Base == i.Base && old.Peers == i.Peers && old.Emulator == i.Emulator {
		return old, removeOthers(dir, old)
	}
	if err := i.publish(work.Dir); err != nil {
		return Image{}, err
	}
	return i, removeOthers(dir, i)
}

// ensure makes the directory final, by way of tmp, unless it is there.
func ensure(final, tmp string, make func(tmp string) error) error {
	if _, err := os.Stat(final); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := make(tmp); err != nil {
		return err
	}
	if err := syncFS(tmp); err != nil {
		return err
	}
	return os.Rename(tmp, final)
}

// publish makes i the lab that Open returns.
func (i *Image) publish(work string) error {
	m, err := readManifest(filepath.Join(i.dir, i.Base))
	if err != nil {
		return err
	}
	i.Kernel, i.kernel, i.early, i.late = m.Kernel, i.Base, m.Early, lateModules
	i.Created = time.Now().UTC().Truncate(time.Second)
	files := []string{filepath.Join(i.Base, diskName), filepath.Join(i.Base, vmlinuxName), filepath.Join(i.Peers, diskName)}
	if i.Emulator != "" {
		files = append(files, filepath.Join(i.Emulator, qemuBinary))
	}
	for _, name := range files {
		info, err := os.Stat(filepath.Join(i.dir, name))
		if err != nil {
			return err
		}
		i.Bytes += info.Size()
	}
	tmp := filepath.Join(work, setName)
	if err := writeJSON(tmp, i); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(i.dir, setName))
}

// removeOthers removes what belongs to earlier labs. Labs that run on it have it open.
func removeOthers(dir string, current Image) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		name := e.Name()
		if name == current.Base || name == current.Peers || name == current.Emulator {
			continue
		}
		if staleKernel(name) || strings.HasPrefix(name, basePrefix) || strings.HasPrefix(name, peersPrefix) || strings.HasPrefix(name, emulatorPrefix) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
		}
	}
	return errors.Join(errs...)
}

// sweep removes what builds left behind whose processes died.
func sweep(dir string) error {
	dead, err := lease.Dead(filepath.Join(dir, tmpName))
	for _, l := range dead {
		err = errors.Join(err, removeTree(l.Dir), l.Release())
	}
	return err
}

// removeTree removes a directory in which a tool that was killed may still write for a moment.
func removeTree(dir string) error {
	for start := time.Now(); ; time.Sleep(removePoll) {
		if err := os.RemoveAll(dir); err == nil || time.Since(start) > endPatience {
			return err
		}
	}
}

// syncFS writes out the file system of dir: a name must not come before its content.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd()))), f.Close())
}
