package guest

import (
	"archive/tar"
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// archive writes the directories, regular files and symbolic links below dir in tar form. Other
// files are left out.
func archive(w io.Writer, dir string) error {
	buffer := bufio.NewWriterSize(w, 256<<10)
	tw := tar.NewWriter(buffer)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		return add(tw, dir, path, d)
	})
	if err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return buffer.Flush()
}

func add(tw *tar.Writer, dir, path string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	var target string
	switch info.Mode().Type() {
	case 0, fs.ModeDir:
	case fs.ModeSymlink:
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	default:
		return nil
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	if header.Name, err = filepath.Rel(dir, path); err != nil {
		return err
	}
	header.Uid, header.Gid, header.Uname, header.Gname = 0, 0, "", ""
	if err := tw.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	// A file that is longer by now is cut; a shorter one would leave the archive broken.
	if n, err := io.CopyN(tw, f, info.Size()); err != nil {
		return fmt.Errorf("%s: %d of %d bytes: %w", path, n, info.Size(), err)
	}
	return nil
}
