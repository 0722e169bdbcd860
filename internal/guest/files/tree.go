package files

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/mountinfo"
	"github.com/aethervm/aether/sandbox"
)

// Tree tells what a sandbox has written. Its methods may be called concurrently. It goes from directory to directory by
// descriptors and follows no link, so that programs that rename what is above a path do not lead it astray.
type Tree struct {
	// upper is where everything is that was written: the upper directory of an overlay, or the root itself.
	upper *os.File
	// image is what upper lies over; nil if upper is the root itself.
	image *os.File
	// foreign are the paths at which something is mounted that does not count.
	foreign map[string]bool
}

// OverlayTree is of an overlay that was mounted without redirect_dir and metacopy: the upper directory says it all. It takes
// both files over.
func OverlayTree(upper, image *os.File) *Tree { return &Tree{upper: upper, image: image} }

// WholeTree is of a root of which nobody can tell what was written: all that is there counts, but for what is mounted below it
// at paths other than these.
func WholeTree(root string, others ...string) (*Tree, error) {
	f, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	t := &Tree{upper: f}
	if t.foreign, err = mounts(root); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	for _, name := range others {
		delete(t.foreign, path.Clean(name))
	}
	return t, nil
}

// mounts are the paths below a root, and relative to it, at which something is mounted. The kernel's device numbers do not
// tell: in an overlay, files may have others than directories.
func mounts(root string) (map[string]bool, error) {
	const list = "/proc/self/mountinfo"
	f, err := os.Open(list)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	points := map[string]bool{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if m, ok := mountinfo.Parse(lines.Text()); ok {
			if below, ok := strings.CutPrefix(m.Point, strings.TrimSuffix(path.Clean(root), "/")+"/"); ok && below != "" {
				points["/"+below] = true
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", list, err)
	}
	return points, nil
}

// Close closes the files.
func (t *Tree) Close() error {
	err := t.upper.Close()
	if t.image != nil {
		err = errors.Join(err, t.image.Close())
	}
	return err
}

// dir is a directory of the tree. upper and image are what it is in the two; at least one is not nil.
type dir struct {
	upper, image *os.File
	// visible says that what is in image shows through.
	visible bool
}

// root is the tree's, on descriptors of its own.
func (t *Tree) root() (d dir, err error) {
	if d.upper, err = openDir(t.upper, "."); err != nil || t.image == nil {
		return d, err
	}
	d.visible = true
	if d.image, err = openDir(t.image, "."); err != nil {
		d.close()
	}
	return d, err
}

func (d dir) close() {
	for _, f := range []*os.File{d.upper, d.image} {
		if f != nil {
			_ = f.Close() // it was opened for reading
		}
	}
}

// child is the directory of that name, which is one in upper, or in image if nothing of that name is in upper. It may be
// gone by now.
func (d dir) child(name string, inUpper bool) (c dir, err error) {
	if inUpper {
		if c.upper, err = openDir(d.upper, name); err != nil {
			return c, err
		}
	}
	if d.image == nil {
		return c, nil
	}
	c.image, err = openDir(d.image, name)
	switch {
	case err == nil:
		c.visible = d.visible && (c.upper == nil || !opaque(c.upper))
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		c.image, err = nil, nil // nothing, or no directory
	}
	if err != nil {
		c.close()
	}
	return c, err
}

func openDir(at *os.File, name string) (*os.File, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(int(at.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// opaque tells whether a directory of an overlay's upper hides what is beneath it.
// https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories
func opaque(f *os.File) bool {
	var value [1]byte
	n, err := unix.Fgetxattr(int(f.Fd()), "trusted.overlay.opaque", value[:])
	return err == nil && n == 1 && value[0] == 'y'
}

// gone tells whether an error means that something is not there, or not any more.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) }

// state describes what has a name in a directory.
func state(at *os.File, name, full string) (agentproto.Change, unix.Stat_t, error) {
	var s unix.Stat_t
	_, err := retry(func() (int, error) { return 0, unix.Fstatat(int(at.Fd()), name, &s, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return agentproto.Change{}, s, &fs.PathError{Op: "stat", Path: full, Err: err}
	}
	c := agentproto.Change{
		Path: full, Mode: modeOf(s.Mode), Size: s.Size, UID: s.Uid, GID: s.Gid,
		Modified: timeOf(s.Mtim), Changed: timeOf(s.Ctim),
	}
	if c.Mode.Type() == fs.ModeSymlink {
		var b [unix.PathMax]byte
		n, err := retry(func() (int, error) { return unix.Readlinkat(int(at.Fd()), name, b[:]) })
		if errors.Is(err, unix.EINVAL) { // something else has taken its place
			err = unix.ENOENT
		}
		if err != nil {
			return c, s, &fs.PathError{Op: "readlink", Path: full, Err: err}
		}
		c.Target = string(b[:n])
	}
	return c, s, nil
}

// whiteout tells whether a file in an overlay's upper says that there is none.
func (t *Tree) whiteout(s *unix.Stat_t) bool {
	return t.image != nil && s.Mode&unix.S_IFMT == unix.S_IFCHR && s.Rdev == 0
}

// Examine tells what is at a path, with a digest if it is a regular file of the size that is wanted. Something that is not
// there is no error. alive is called now and then while there is much to read; when it fails, so does Examine.
func (t *Tree) Examine(want agentproto.Want, alive func() error) (agentproto.Change, error) {
	if err := sandbox.CheckPath(want.Path); err != nil {
		return agentproto.Change{}, err
	}
	none := agentproto.Change{Path: want.Path, Gone: true}
	d, err := t.root()
	if err != nil {
		return none, err
	}
	defer func() { d.close() }()
	names := strings.Split(strings.Trim(path.Clean(want.Path), "/"), "/")
	for i, name := range names {
		if name == "" {
			name = "." // the root itself
		}
		at, inUpper := d.upper, true
		var c agentproto.Change
		var s unix.Stat_t
		err := fs.ErrNotExist
		if at != nil {
			c, s, err = state(at, name, want.Path)
		}
		if gone(err) && d.visible {
			at, inUpper = d.image, false
			c, s, err = state(at, name, want.Path)
		}
		switch {
		case gone(err), err == nil && inUpper && t.whiteout(&s), t.foreign["/"+path.Join(names[:i+1]...)]:
			return none, nil
		case err != nil:
			return none, err
		case i < len(names)-1:
			if !c.Mode.IsDir() {
				return none, nil
			}
			next, err := d.child(name, inUpper)
			if gone(err) {
				return none, nil
			}
			if err != nil {
				return none, err
			}
			d.close()
			d = next
			continue
		}
		if c.Mode.IsRegular() && want.Size >= 0 && c.Size == want.Size {
			c.Digest, err = digest(at, name, want.Size, alive)
		}
		return c, err
	}
	return none, nil
}

func modeOf(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	}
	for bit, flag := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= flag
		}
	}
	return mode
}
