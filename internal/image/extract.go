package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of what an archive may hold, so that a small hostile one cannot fill the disk or the
// memory. They are far above any image in use.
type limits struct {
	entries int   // headers, of all layers together
	bytes   int64 // content of files, of all layers together
	path    int   // of a name or the target of a link
	links   int   // symbolic links on the way to one file, as in the kernel
}

func defaultLimits() limits {
	return limits{entries: 1 << 20, bytes: 64 << 30, path: 4095, links: 40}
}

// archive bounds the length of an uncompressed archive: contents, headers with their extensions
// and paddings, and what is written to fill up the last record.
func (l limits) archive() int64 { return l.bytes + int64(l.entries)*4096 + 64<<10 }

const (
	capabilityAttr = "security.capability"
	paxCapability  = "SCHILY.xattr." + capabilityAttr
)

// An extractor unpacks archives from strangers into a directory. Every operation goes through an
// os.Root, so that no name, link or race leads out of it. Links met on the way to a file are
// followed as by a process whose root directory this is, as layers of images expect.
type extractor struct {
	root *os.Root
	limits
	own     bool // keep ownership and capabilities; only root can
	entries int
	bytes   int64
	dropped map[string]int
	// Modification times of all directories: they are set at last, when nothing is added any more.
	dirs map[string]time.Time
	// What the present layer has written, with all directories above; its whiteouts spare them.
	written map[string]bool
	// The last parent directory looked up and where it lies; forgotten when anything is removed.
	lastDir, lastAt string
	buf             []byte
}

func newExtractor(root *os.Root, lim limits) *extractor {
	return &extractor{root: root, limits: lim, own: os.Geteuid() == 0, dropped: map[string]int{},
		dirs: map[string]time.Time{".": time.Unix(0, 0)}, buf: make([]byte, 256<<10)}
}

// apply unpacks one archive over what is there. In a layer of an image whiteouts remove what the
// layers below have; elsewhere they are files like any other.
func (x *extractor) apply(ctx context.Context, r io.Reader, layer bool) error {
	x.written = nil
	if layer {
		x.written = map[string]bool{}
	}
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // names are checked below
			return archiveError(err)
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if x.entries++; x.entries > x.limits.entries {
			return bad("more than %d entries", x.limits.entries)
		}
		if err := x.entry(hdr, tr, layer); err != nil {
			return err
		}
	}
}

func (x *extractor) entry(hdr *tar.Header, content io.Reader, layer bool) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := x.clean(hdr.Name)
	if err != nil {
		return err
	}
	if name == "." {
		if hdr.Typeflag != tar.TypeDir {
			return bad("the root is not a directory")
		}
		return x.directory(hdr, ".")
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink:
	case tar.TypeChar, tar.TypeBlock:
		x.dropped["device nodes"]++
		return nil
	case tar.TypeFifo:
		x.dropped["named pipes"]++
		return nil
	default:
		return bad("%s: entry of unknown type %q", name, hdr.Typeflag)
	}
	dir, err := x.directoryAt(path.Dir(name), true)
	if err != nil {
		return err
	}
	base := path.Base(name)
	if layer && strings.HasPrefix(base, whiteoutPrefix) {
		return x.whiteout(dir, base)
	}
	at := path.Join(dir, base)
	x.mark(at)
	switch hdr.Typeflag {
	case tar.TypeDir:
		return x.directory(hdr, at)
	case tar.TypeSymlink:
		return x.symlink(hdr, at)
	case tar.TypeLink:
		return x.link(hdr, at)
	}
	return x.file(hdr, at, content)
}

// clean turns the name of an entry into a slash-separated path relative to the root; "." is the
// root itself.
func (x *extractor) clean(name string) (string, error) {
	if len(name) > x.path {
		return "", bad("a name of %d bytes", len(name))
	}
	if strings.ContainsRune(name, 0) {
		return "", bad("name %q with a NUL byte", name)
	}
	if slices.Contains(strings.Split(name, "/"), "..") {
		return "", bad("name %q leads out of the archive", name)
	}
	return path.Clean(strings.TrimLeft(name, "/")), nil
}

// directoryAt finds where the directory of the given clean name lies, with all links resolved, and
// makes what is missing of it if create is set.
func (x *extractor) directoryAt(name string, create bool) (string, error) {
	if name == x.lastDir && x.lastAt != "" {
		return x.lastAt, nil
	}
	at, links := ".", 0
	for rest := strings.Split(name, "/"); len(rest) > 0; {
		elem := rest[0]
		rest = rest[1:]
		switch elem {
		case "", ".":
			continue
		case "..": // in a link; it cannot lead above the root
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, elem)
		if len(next) > x.path {
			return "", bad("a path of %d bytes", len(next))
		}
		info, err := x.root.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist) && create:
			if err := x.root.Mkdir(next, 0o755); err != nil {
				return "", err
			}
			implied := &tar.Header{Typeflag: tar.TypeDir, Name: next, Mode: 0o755, ModTime: time.Unix(0, 0)}
			if err := x.perm(implied, next); err != nil { // whatever the umask and the directory above
				return "", err
			}
			x.dirs[next] = implied.ModTime
			x.mark(next)
			at = next
		case err != nil:
			return "", err
		case info.IsDir():
			at = next
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > x.links {
				return "", bad("%s: too many symbolic links", name)
			}
			target, err := x.root.Readlink(next)
			if err != nil {
				return "", err
			}
			if path.IsAbs(target) {
				at = "."
			}
			rest = append(strings.Split(target, "/"), rest...)
		default:
			return "", bad("%s lies in %s, which is not a directory", name, next)
		}
	}
	x.lastDir, x.lastAt = name, at
	return at, nil
}

// clear makes room at a place where something other than a directory is to be.
func (x *extractor) clear(at string) error {
	_, err := x.root.Lstat(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return x.remove(at)
}

func (x *extractor) remove(at string) error {
	x.lastDir, x.lastAt = "", ""
	return x.root.RemoveAll(at)
}

func (x *extractor) directory(hdr *tar.Header, at string) error {
	info, err := x.root.Lstat(at)
	switch {
	case err == nil && !info.IsDir():
		err = x.remove(at)
	case err == nil:
		x.dirs[at] = modTime(hdr)
		return x.perm(hdr, at)
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	if err == nil {
		err = x.root.Mkdir(at, 0o700)
	}
	if err != nil {
		return err
	}
	x.dirs[at] = modTime(hdr)
	return x.perm(hdr, at)
}

// perm sets owner and mode of a directory.
func (x *extractor) perm(hdr *tar.Header, at string) error {
	if err := x.chown(hdr, func(uid, gid int) error { return x.root.Lchown(at, uid, gid) }); err != nil {
		return err
	}
	return x.root.Chmod(at, x.mode(hdr, 0o700))
}

// mode is the mode of a file, which without root always lets the store work on it.
func (x *extractor) mode(hdr *tar.Header, need fs.FileMode) fs.FileMode {
	mode := hdr.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	if !x.own && mode&need != need {
		mode |= need
		x.dropped["permissions that lock out their owner"]++
	}
	return mode
}

func (x *extractor) chown(hdr *tar.Header, chown func(uid, gid int) error) error {
	const last = 1<<32 - 2 // the next, -1 of 32 bits, means "leave it"
	if hdr.Uid < 0 || hdr.Uid > last || hdr.Gid < 0 || hdr.Gid > last {
		return bad("%s: owner %d:%d", hdr.Name, hdr.Uid, hdr.Gid)
	}
	if !x.own {
		if hdr.Uid != 0 || hdr.Gid != 0 {
			x.dropped["owners other than root"]++
		}
		return nil
	}
	return chown(hdr.Uid, hdr.Gid)
}

func (x *extractor) file(hdr *tar.Header, at string, content io.Reader) (err error) {
	if hdr.Size < 0 || hdr.Size > x.limits.bytes-x.bytes {
		return bad("%s: more than %d bytes in all", hdr.Name, x.limits.bytes)
	}
	x.bytes += hdr.Size
	if err := x.clear(at); err != nil {
		return err
	}
	f, err := x.root.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// The wrappers keep io.Copy from other ways than the buffer.
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{content}, x.buf); err != nil {
		return archiveError(err)
	}
	// The owner comes first: changing it takes set-user-ID bits and capabilities away.
	if err := x.chown(hdr, f.Chown); err != nil {
		return err
	}
	if value := hdr.PAXRecords[paxCapability]; value != "" {
		if !x.own || unix.Fsetxattr(int(f.Fd()), capabilityAttr, []byte(value), 0) != nil {
			x.dropped["file capabilities"]++
		}
	}
	if err := f.Chmod(x.mode(hdr, 0o400)); err != nil {
		return err
	}
	t := unix.NsecToTimeval(modTime(hdr).UnixNano())
	return os.NewSyscallError("futimes", unix.Futimes(int(f.Fd()), []unix.Timeval{t, t}))
}

func (x *extractor) symlink(hdr *tar.Header, at string) error {
	if len(hdr.Linkname) > x.path || hdr.Linkname == "" || strings.ContainsRune(hdr.Linkname, 0) {
		return bad("%s: symbolic link to a name of %d bytes", hdr.Name, len(hdr.Linkname))
	}
	if err := x.clear(at); err != nil {
		return err
	}
	// The target may be anything: it is only ever followed within the root.
	if err := x.root.Symlink(hdr.Linkname, at); err != nil {
		return err
	}
	if err := x.chown(hdr, func(uid, gid int) error { return x.root.Lchown(at, uid, gid) }); err != nil {
		return err
	}
	dir, err := x.root.Open(path.Dir(at))
	if err != nil {
		return err
	}
	t := unix.NsecToTimespec(modTime(hdr).UnixNano())
	err = unix.UtimesNanoAt(int(dir.Fd()), path.Base(at), []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
	return errors.Join(os.NewSyscallError("utimensat", err), dir.Close())
}

func (x *extractor) link(hdr *tar.Header, at string) error {
	name, err := x.clean(hdr.Linkname)
	if err != nil {
		return err
	}
	dir, err := x.directoryAt(path.Dir(name), false)
	target := path.Join(dir, path.Base(name))
	var info fs.FileInfo
	if err == nil {
		info, err = x.root.Lstat(target)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return bad("%s: hard link to %s, which is not there", hdr.Name, name)
	case err != nil:
		return err
	case info.IsDir():
		return bad("%s: hard link to the directory %s", hdr.Name, name)
	case target == at:
		return nil
	}
	if err := x.clear(at); err != nil {
		return err
	}
	return x.root.Link(target, at)
}

// finish sets the times of all directories.
func (x *extractor) finish() error {
	return fs.WalkDir(x.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return x.root.Chtimes(name, x.dirs[name], x.dirs[name])
	})
}

// notes says what could not be kept.
func (x *extractor) notes() []string {
	var notes []string
	for _, what := range slices.Sorted(maps.Keys(x.dropped)) {
		notes = append(notes, fmt.Sprintf("%d %s not kept", x.dropped[what], what))
	}
	return notes
}

// modTime is the modification time of an entry in whole seconds, within what file systems and tar
// archives can hold.
func modTime(hdr *tar.Header) time.Time {
	return time.Unix(min(max(hdr.ModTime.Unix(), 0), 1<<33-1), 0)
}

// archiveError tells apart errors of the archive from those of the host.
func archiveError(err error) error {
	switch {
	case errors.Is(err, tar.ErrHeader):
		return bad("not a tar archive, or a damaged one: %v", err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return bad("the archive is cut off")
	}
	return err
}
