package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

// Tar writes the tree of img to w as a tar archive in canonical form: the same tree gives the same
// bytes on every host. Entries are in the order of their names, each directory before what it
// holds, "./" first; owners are numbers; times are whole seconds; of several links to a file the
// first is the file; extended attributes other than file capabilities, device nodes, pipes and
// sockets are left out.
func Tar(ctx context.Context, img sandbox.Image, w io.Writer) error {
	hold, err := Hold(img)
	if err != nil {
		return err
	}
	defer func() { _ = hold.Close() }()
	root, err := os.OpenRoot(img.Rootfs)
	if err != nil {
		return fail("read image", img.Digest, err)
	}
	defer func() { _ = root.Close() }()
	a := archiver{root: root, squash: img.Cache != "" && squashed(img.Rootfs)}
	if err := a.write(ctx, w); err != nil {
		return fail("read image", img.Digest, err)
	}
	return nil
}

// squashed tells whether the tree at rootfs was built without root. All its files belong to the
// builder, which stands for root.
func squashed(rootfs string) bool {
	info, err := os.Lstat(filepath.Dir(rootfs))
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid != 0
}

// An archiver writes a tree in the canonical form of Tar.
type archiver struct {
	root   *os.Root
	squash bool // give every file to root

	files   int
	bytes   int64 // content
	blocks  int64 // space on disk, in bytes
	dropped map[string]int
}

type inode struct{ dev, ino uint64 }

func (a *archiver) write(ctx context.Context, w io.Writer) error {
	tw := tar.NewWriter(w)
	a.dropped = map[string]int{}
	links := map[inode]string{}
	buf := make([]byte, 256<<10)
	var device uint64
	err := fs.WalkDir(a.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		info, err := a.root.Lstat(name)
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("%s: no owner known", name)
		}
		if name == "." {
			device = st.Dev
		}
		if st.Dev != device { // as /proc is in a running system
			a.dropped["other file systems"]++
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return a.entry(tw, name, st, links, buf)
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

func (a *archiver) entry(tw *tar.Writer, name string, st *syscall.Stat_t, links map[inode]string, buf []byte) error {
	hdr := &tar.Header{Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, 0), Format: tar.FormatPAX}
	if a.squash {
		hdr.Uid, hdr.Gid = 0, 0
	}
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		hdr.Typeflag, hdr.Name = tar.TypeDir, name+"/"
		if name != "." {
			a.files++
		}
		a.blocks += st.Blocks * 512
		return tw.WriteHeader(hdr)
	case syscall.S_IFLNK, syscall.S_IFREG:
	default:
		a.dropped["device nodes, pipes and sockets"]++
		return nil
	}
	a.files++
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := links[id]; ok {
			hdr.Typeflag, hdr.Linkname = tar.TypeLink, first
			return tw.WriteHeader(hdr)
		}
		links[id] = name
	}
	a.blocks += st.Blocks * 512
	if st.Mode&syscall.S_IFMT == syscall.S_IFREG {
		return a.file(tw, hdr, name, st.Size, buf)
	}
	target, err := a.root.Readlink(name)
	if err != nil {
		return err
	}
	hdr.Typeflag, hdr.Linkname, hdr.Mode = tar.TypeSymlink, target, 0o777
	return tw.WriteHeader(hdr)
}

func (a *archiver) file(tw *tar.Writer, hdr *tar.Header, name string, size int64, buf []byte) error {
	f, err := a.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may have become a pipe
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	hdr.Typeflag, hdr.Size = tar.TypeReg, size
	var attr [64]byte
	if n, err := unix.Fgetxattr(int(f.Fd()), capabilityAttr, attr[:]); err == nil {
		hdr.PAXRecords = map[string]string{paxCapability: string(attr[:n])}
	}
	if err := tw.WriteHeader(hdr); err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{tw}, struct{ io.Reader }{io.LimitReader(f, size)}, buf)
	a.bytes += n
	if err == nil && n != size {
		err = errors.New("it became shorter while it was read")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
