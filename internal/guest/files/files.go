// Package files does the file operations of a sandbox, from inside it.
//
// The agent runs behind the sandbox's own root directory, so names cannot lead out of it whatever
// links there are; no path arithmetic guards that.
package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

// Read copies the content of a regular file to w, from the offset on, and at most size bytes if size is not 0.
// A file that ends before the offset has nothing there.
func Read(name string, offset, size int64, w io.Writer) error {
	if err := sandbox.CheckPath(name); err != nil {
		return err
	}
	// O_NONBLOCK: opening a FIFO must not hang.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return &fs.PathError{Op: "read", Path: name, Err: unix.EISDIR}
	}
	if !info.Mode().IsRegular() {
		return &fs.PathError{Op: "read", Path: name, Err: unix.EINVAL}
	}
	if offset > 0 {
		if _, err := f.Seek(offset, io.SeekStart); errors.Is(err, unix.EINVAL) && offset >= info.Size() {
			return nil // further than any file of this file system goes
		} else if err != nil {
			return err
		}
	}
	var r io.Reader = f
	if size > 0 {
		r = io.LimitReader(f, size)
	}
	_, err = io.Copy(w, r)
	return err
}

// Write creates or replaces a file. It writes to a temporary file in the same directory and
// renames it, so that nobody sees half of it. Links are followed; what exists and is no regular
// file is refused.
func Write(name string, r io.Reader, perm fs.FileMode) (err error) {
	if err := sandbox.CheckPath(name); err != nil {
		return err
	}
	if target, err := filepath.EvalSymlinks(name); err == nil {
		name = target
	}
	switch info, err := os.Lstat(name); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case info.IsDir():
		return &fs.PathError{Op: "write", Path: name, Err: unix.EISDIR}
	case !info.Mode().IsRegular():
		return &fs.PathError{Op: "write", Path: name, Err: unix.EINVAL}
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), ".aether-write-*")
	if err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: underlying(err)}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, err = io.Copy(tmp, r)
	err = errors.Join(err, tmp.Chmod(perm.Perm()), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

// List describes what a directory holds, sorted by name.
func List(name string) ([]sandbox.FileInfo, error) {
	if err := sandbox.CheckPath(name); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	list := make([]sandbox.FileInfo, 0, len(entries))
	for _, e := range entries {
		info, err := describe(filepath.Join(name, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed in between
		}
		if err != nil {
			return nil, err
		}
		list = append(list, info)
	}
	return list, nil
}

// Stat describes a file without following a link in the last element.
func Stat(name string) (sandbox.FileInfo, error) {
	if err := sandbox.CheckPath(name); err != nil {
		return sandbox.FileInfo{}, err
	}
	return describe(name)
}

// Remove deletes a file or a whole directory.
func Remove(name string) error {
	if err := sandbox.CheckPath(name); err != nil {
		return err
	}
	if filepath.Clean(name) == "/" {
		return fmt.Errorf("remove /: %w", sandbox.ErrInvalid)
	}
	if _, err := os.Lstat(name); err != nil { // RemoveAll is silent about a missing file
		return err
	}
	return os.RemoveAll(name)
}

func describe(name string) (sandbox.FileInfo, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return sandbox.FileInfo{}, err
	}
	d := sandbox.FileInfo{
		Name: info.Name(), Size: info.Size(), Mode: info.Mode(), ModTime: info.ModTime(),
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if d.Target, err = os.Readlink(name); err != nil {
			return sandbox.FileInfo{}, err
		}
	}
	return d, nil
}

func underlying(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
