package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Pack writes what is in a directory to w, as a tar stream with names that begin in the directory, itself as ".".
// Permissions, symbolic links and times of modification are kept; owners, set-user-ID bits and what links share a file
// are not. Devices, pipes, sockets, and what cannot be read are skipped. A file that grows meanwhile is cut, one that
// shrinks is filled with zeros and reported. An error means that the stream is of no use.
func Pack(w io.Writer, dir string) (Report, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Report{}, err
	}
	defer func() { _ = root.Close() }()
	p := &packer{root: root, w: tar.NewWriter(w)}
	err = fs.WalkDir(root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil { // of a directory that cannot be read, which is in the archive
			p.report.skip(name, err)
			return nil
		}
		return p.add(name)
	})
	return p.report, errors.Join(err, p.w.Close())
}

type packer struct {
	root   *os.Root
	w      *tar.Writer
	report Report
}

// errKind is why something is skipped that is neither file nor directory nor link.
var errKind = errors.New("it is no file, directory or link")

// isKernels tells whether a directory is in a file system that has no files of anybody's, as that of /proc.
func (p *packer) isKernels(name string) bool {
	dir, err := p.root.Open(name)
	if err != nil {
		return false
	}
	defer func() { _ = dir.Close() }()
	var st unix.Statfs_t
	if unix.Fstatfs(int(dir.Fd()), &st) != nil {
		return false
	}
	switch st.Type {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC:
		return true
	}
	return false
}

// add adds one entry. Only a failure to write is an error, and fs.SkipDir.
func (p *packer) add(name string) error {
	info, err := p.root.Lstat(name)
	if err != nil {
		p.report.skip(name, err)
		return nil
	}
	h := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(), Format: tar.FormatPAX}
	switch info.Mode().Type() {
	case 0:
		return p.addFile(h)
	case fs.ModeDir:
		if p.isKernels(name) {
			p.report.skip(name, errors.New("it is a file system of the kernel's own"))
			return fs.SkipDir
		}
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case fs.ModeSymlink:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = p.root.Readlink(name); err != nil {
			p.report.skip(name, err)
			return nil
		}
	default:
		p.report.skip(name, errKind)
		return nil
	}
	if err := p.w.WriteHeader(h); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	p.report.Entries++
	return nil
}

func (p *packer) addFile(h *tar.Header) error {
	// What was a file may be a pipe by now, which must not hold it up.
	f, err := p.root.OpenFile(h.Name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		p.report.skip(h.Name, err)
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errKind
	}
	if err != nil {
		p.report.skip(h.Name, err)
		return nil
	}
	if info.Size() > MaxBytes-p.report.Bytes {
		p.report.skip(h.Name, fmt.Errorf("it has %d bytes, holes among them, and a copy at most %d", info.Size(), int64(MaxBytes)))
		return nil
	}
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := p.w.WriteHeader(h); err != nil {
		return fmt.Errorf("pack %s: %w", h.Name, err)
	}
	n, err := io.Copy(p.w, &onlyReads{r: io.LimitReader(f, h.Size)})
	p.report.Bytes += n
	p.report.Entries++
	p.report.Files++
	if n == h.Size {
		return nil
	}
	var read *readError
	if err != nil && !errors.As(err, &read) {
		return fmt.Errorf("pack %s: %w", h.Name, err)
	}
	if err == nil {
		err = errors.New("it became shorter, and is filled with zeros")
	}
	p.report.skip(h.Name, err)
	_, err = io.CopyN(p.w, zeros{}, h.Size-n)
	return err
}

// onlyReads marks errors of reading, and hides that there is a file to be read faster.
type onlyReads struct{ r io.Reader }

type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

func (r *onlyReads) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &readError{err}
	}
	return n, err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
