package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/initramfs"
	"github.com/aethervm/aether/internal/lab/guest"
	"github.com/aethervm/aether/sandbox"
)

// File is a file or a directory of this host that a lab is given.
type File struct {
	Host string
	// Guest is its path in the lab; if it is relative, below GuestDir. Empty: the name that it has on
	// this host, in GuestDir.
	Guest string
}

// ParseFile reads HOST[:GUEST].
func ParseFile(s string) (File, error) {
	f := File{Host: s}
	if _, err := os.Stat(s); err != nil { // else the colon, if any, is part of a name
		if i := strings.LastIndexByte(s, ':'); i >= 0 {
			f.Host, f.Guest = s[:i], s[i+1:]
		}
	}
	if f.Host == "" {
		return f, &sandbox.Error{Op: "read a file's name", Err: sandbox.ErrInvalid, Detail: fmt.Sprintf("%q", s), Remedy: "write HOST[:GUEST]"}
	}
	return f, nil
}

// target is the absolute path in the lab.
func (f File) target() string {
	name := f.Guest
	if name == "" || strings.HasSuffix(name, "/") {
		name += filepath.Base(f.Host)
	}
	if !path.IsAbs(name) {
		name = path.Join(GuestDir, name)
	}
	return path.Clean(name)
}

// environment is what a program in the lab starts with.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "LANG=C.UTF-8", "TMPDIR=/tmp",
}

// buildInitrd makes the machine's first root file system: the init program, the modules, the job,
// and the files that it is about. It exists in memory only.
func buildInitrd(image Image, c Config) (_ *os.File, err error) {
	job := guest.Job{
		Args: c.Args, Env: append(environment[:len(environment):len(environment)], c.Env...), Dir: GuestDir, Hostname: hostname,
		Images: images(), Early: image.early, Late: image.late, Public: publicDevices, Self: guestSelf,
	}
	if c.Out != "" {
		job.Collect = GuestOut
	}
	text, err := json.Marshal(job)
	if err != nil {
		return nil, err
	}
	files := []initramfs.File{
		{Name: "init", Mode: 0o755, Source: c.Init},
		{Name: guest.JobFile[1:], Mode: 0o644, Data: text},
		// The tree that is laid over the images is there even if no file is given.
		{Name: path.Join(guest.FilesDir, GuestDir, ".keep")[1:], Mode: 0o644},
	}
	for _, name := range image.early {
		files = append(files, initramfs.File{Name: path.Join(guest.ModulesDir, name)[1:], Mode: 0o644,
			Source: filepath.Join(image.dir, image.kernel, modulesName, name)})
	}
	for _, f := range c.Files {
		if files, err = addFile(files, f); err != nil {
			return nil, err
		}
	}
	fd, err := unix.MemfdCreate("aether-lab", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "initramfs")
	if err := initramfs.Write(f, files); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// It is unpacked beside itself.
	if info, err := f.Stat(); err != nil || info.Size() > int64(c.MemoryMiB)<<20/4 {
		if err == nil {
			err = &sandbox.Error{Op: "run lab", Err: sandbox.ErrInvalid, Remedy: "give fewer files, or more memory",
				Detail: fmt.Sprintf("%d MiB of files are more than a quarter of the lab's memory", info.Size()>>20)}
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// addFile adds a file, or all regular files below a directory. Links are followed.
func addFile(files []initramfs.File, f File) ([]initramfs.File, error) {
	root, err := filepath.EvalSymlinks(f.Host)
	if err != nil {
		return nil, err
	}
	target := f.target()
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		switch {
		case info.Mode().IsRegular():
			files = append(files, initramfs.File{Mode: info.Mode().Perm(), Source: name,
				Name: path.Join(guest.FilesDir, target, filepath.ToSlash(rel))[1:]})
		case !d.IsDir():
			return fmt.Errorf("give %s to the lab: neither a regular file nor a directory", name)
		}
		return nil
	})
	return files, err
}
