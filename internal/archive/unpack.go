package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Unpack reads a tar stream into a directory, which exists. Files replace files and links of the same name, each whole
// or not at all; a link keeps its text, wherever that leads, and nothing is written through it that would leave the
// directory. Permissions and times are kept, set-user-ID and such bits and owners are not: what is made is the caller's.
// Directories that were there stay as they are.
// Devices and pipes are skipped, and so is what the directory does not let be made.
//
// An archive with a name that leads out of the directory, or with more than the limits, is refused where that shows:
// what came before it is there.
func Unpack(r io.Reader, dir string, options Options) (Report, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Report{}, err
	}
	defer func() { _ = root.Close() }()
	return UnpackRoot(r, root, options)
}

// UnpackRoot is Unpack for a directory that is open.
func UnpackRoot(r io.Reader, root *os.Root, options Options) (Report, error) {
	u := &unpacker{root: root, options: options.withDefaults()}
	err := u.all(tar.NewReader(r))
	u.finishDirs()
	return u.report, err
}

type unpacker struct {
	root    *os.Root
	options Options
	report  Report
	dirs    []dirEnd
	seen    int
	temp    int
}

// dirEnd is what a directory becomes when all is in it.
type dirEnd struct {
	name string
	perm fs.FileMode
	time time.Time
}

func (u *unpacker) all(r *tar.Reader) error {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
		if u.seen++; u.seen > u.options.Entries {
			return fmt.Errorf("%w: it has more than %d entries", ErrHostile, u.options.Entries)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name, err := local(h.Name)
		if err != nil {
			return err
		}
		if h.Size > u.options.Bytes-u.report.Bytes {
			return fmt.Errorf("%w: its files have more than %d bytes", ErrHostile, u.options.Bytes)
		}
		err = u.one(r, h, name)
		var read *readError
		if errors.As(err, &read) {
			return fmt.Errorf("read the archive: %s: %w", name, err)
		}
		if err != nil {
			if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) { // all that follows would fail too
				return fmt.Errorf("unpack %s: %w", name, err)
			}
			u.report.skip(name, err)
			continue
		}
		u.report.Entries++
	}
}

// local is a name in the archive as one in the directory.
func local(name string) (string, error) {
	clean := path.Clean(strings.TrimSuffix(name, "/"))
	if name == "" || strings.ContainsRune(name, 0) || !filepath.IsLocal(clean) || strings.HasPrefix(name, "/") {
		return "", fmt.Errorf("%w: the name %q leads out of the directory", ErrHostile, cut(name))
	}
	return clean, nil
}

func (u *unpacker) one(r io.Reader, h *tar.Header, name string) error {
	perm := fs.FileMode(h.Mode) & fs.ModePerm
	if h.Typeflag == tar.TypeDir {
		return u.dir(name, perm, h.ModTime)
	}
	if name == "." {
		return errors.New("it has the name of the directory, and is none")
	}
	if parent := path.Dir(name); parent != "." {
		if err := u.root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.file(r, name, perm, h)
	case tar.TypeSymlink:
		return u.replace(name, func(temp string) error { return u.root.Symlink(h.Linkname, temp) })
	case tar.TypeLink:
		target, err := local(h.Linkname)
		if err != nil {
			return err
		}
		return u.replace(name, func(temp string) error { return u.root.Link(target, temp) })
	}
	return errKind
}

func (u *unpacker) dir(name string, perm fs.FileMode, at time.Time) error {
	if name == "." {
		if u.options.Fresh {
			u.dirs = append(u.dirs, dirEnd{name, perm, at})
		}
		return nil
	}
	if info, err := u.root.Lstat(name); err == nil && !info.IsDir() {
		if info.Mode().Type() != fs.ModeSymlink {
			return &fs.PathError{Op: "mkdir", Path: name, Err: unix.ENOTDIR}
		}
		// A link to a directory in here is as good as one; any other is an error of what comes next.
		if info, err = u.root.Stat(name); err != nil || !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: name, Err: unix.ENOTDIR}
		}
		return nil
	}
	if parent := path.Dir(name); parent != "." {
		if err := u.root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	if err := u.root.Mkdir(name, 0o755); errors.Is(err, fs.ErrExist) {
		return nil // it stays as it is
	} else if err != nil {
		return err
	}
	u.dirs = append(u.dirs, dirEnd{name, perm, at})
	return nil
}

// finishDirs gives directories their permissions, which may keep files from being made in them, and their times.
func (u *unpacker) finishDirs() {
	for _, d := range slices.Backward(u.dirs) {
		if err := errors.Join(u.root.Chtimes(d.name, d.time, d.time), u.root.Chmod(d.name, d.perm)); err != nil {
			u.report.skip(d.name, err)
		}
	}
}

func (u *unpacker) file(r io.Reader, name string, perm fs.FileMode, h *tar.Header) error {
	return u.replace(name, func(temp string) error {
		f, err := u.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		n, err := io.Copy(f, &onlyReads{r})
		u.report.Bytes += n
		if err == nil {
			err = f.Chmod(perm)
		}
		err = errors.Join(err, f.Close())
		if err == nil {
			err = u.root.Chtimes(temp, h.ModTime, h.ModTime)
		}
		if err == nil {
			u.report.Files++
		}
		return err
	})
}

// replace makes something under a name that nobody has, and then gives it its own.
func (u *unpacker) replace(name string, make func(temp string) error) error {
	u.temp++
	temp := path.Join(path.Dir(name), fmt.Sprintf(".aether-cp-%d-%d", os.Getpid(), u.temp))
	err := make(temp)
	if err == nil {
		err = u.root.Rename(temp, name)
	}
	if err != nil {
		_ = u.root.Remove(temp) // it may not be there
	}
	return err
}
