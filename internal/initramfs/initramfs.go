// Package initramfs builds the archive that a guest kernel unpacks into its first root file
// system: a cpio archive in "newc" form, made without root rights and always the same for the same
// input. https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
package initramfs

import (
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/cavaliergopher/cpio"
)

// File is a regular file of the archive.
type File struct {
	// Name is the path in the archive, without a leading slash.
	Name string
	// Mode holds the permission bits.
	Mode os.FileMode
	// Source is the path of the content on this host.
	Source string
	// Data is the content if Source is empty.
	Data []byte
}

// trailer is the name of the entry that ends an archive.
const trailer = "TRAILER!!!"

// Write writes an archive of files, and of the directories that they are in, to w.
func Write(w io.Writer, files []File) error {
	archive := cpio.NewWriter(w)
	made := map[string]bool{".": true}
	for _, f := range files {
		if f.Name == "" || f.Name == "." || path.IsAbs(f.Name) || path.Clean(f.Name) != f.Name || strings.HasPrefix(f.Name, "..") {
			return fmt.Errorf("initramfs: %q is no plain relative path", f.Name)
		}
		if top, _, _ := strings.Cut(f.Name, "/"); top == trailer || strings.Contains(f.Name, "\x00") {
			return fmt.Errorf("initramfs: %q would end the archive or the name", f.Name)
		}
		if err := addParents(archive, made, path.Dir(f.Name)); err != nil {
			return fmt.Errorf("initramfs: %s: %w", f.Name, err)
		}
		if err := addFile(archive, f); err != nil {
			return fmt.Errorf("initramfs: %s: %w", f.Name, err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	return nil
}

func addParents(archive *cpio.Writer, made map[string]bool, dir string) error {
	if made[dir] {
		return nil
	}
	if err := addParents(archive, made, path.Dir(dir)); err != nil {
		return err
	}
	made[dir] = true
	return archive.WriteHeader(&cpio.Header{Name: dir, Mode: cpio.TypeDir | 0o755, Links: 2})
}

func addFile(archive *cpio.Writer, f File) error {
	var content io.Reader = strings.NewReader(string(f.Data))
	size := int64(len(f.Data))
	if f.Source != "" {
		file, err := os.Open(f.Source)
		if err != nil {
			return err
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		content, size = file, info.Size()
	}
	header := &cpio.Header{Name: f.Name, Mode: cpio.TypeReg | cpio.FileMode(f.Mode.Perm()), Size: size, Links: 1}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	if n, err := io.Copy(archive, content); err != nil {
		return err
	} else if n != size {
		return fmt.Errorf("changed while it was read: %d of %d bytes", n, size)
	}
	return nil
}
