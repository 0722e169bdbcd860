package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/aethervm/aether/internal/filelock"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

// Derived returns the path of a form of img that a driver derived from it, such as a disk image:
// <Cache>/<name>. If it is not there yet, make is called to produce it, a file or a directory, at
// a temporary path beside it, which then gets the name. Among all processes one makes it while the
// others wait, until their ctx ends. name must tell everything that the form depends on beside the
// image, such as the version of its layout: it is never made again.
func Derived(ctx context.Context, img sandbox.Image, name string, make func(ctx context.Context, tmpPath string) error) (path string, err error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	if img.Cache == "" {
		return "", &sandbox.Error{Op: "derive " + name, Err: sandbox.ErrInvalid, Detail: "the image has no cache directory",
			Remedy: "use one of the image store; see `aether image build`"}
	}
	path = filepath.Join(img.Cache, name)
	if _, err := os.Lstat(path); err == nil {
		return path, nil
	}
	defer func() {
		if err != nil {
			path, err = "", fail("derive "+name, img.Digest, err)
		}
	}()
	hold, err := Hold(img)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, hold.Close()) }()
	lock, err := filelock.Wait(ctx, filepath.Join(img.Cache, "."+name+".lock"), filelock.Exclusive, 0o644, nil)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if _, err := os.Lstat(path); err == nil { // made while this process waited
		return path, nil
	}
	prefix := "." + name + ".tmp-"
	if err := removeAll(img.Cache, prefix); err != nil { // of makers that died
		return "", err
	}
	tmp := filepath.Join(img.Cache, prefix+lease.NewID())
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if err := make(ctx, tmp); err != nil {
		return "", err
	}
	if err := seal(tmp); err != nil {
		return "", err
	}
	return path, os.Rename(tmp, path)
}

// seal makes what a maker produced readable to everybody and writes it to disk, so that a crash of
// the host cannot leave a name without its content.
func seal(tmp string) error {
	info, err := os.Lstat(tmp)
	if err != nil {
		return fmt.Errorf("nothing was made: %w", err)
	}
	mode := fs.FileMode(0o644)
	if info.IsDir() {
		mode = 0o755
	}
	if err := os.Chmod(tmp, mode); err != nil {
		return err
	}
	if info.IsDir() {
		return syncFS(tmp)
	}
	return syncDir(tmp)
}

// removeAll removes the entries of dir whose names have the prefix.
func removeAll(dir, prefix string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}
