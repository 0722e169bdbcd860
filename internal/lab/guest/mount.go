package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guest/device"
)

// Where the root file system is put together, in the initramfs.
const (
	imagesDir  = "/lab/images"
	changesDir = "/lab/changes"
	newRoot    = "/lab/root"
)

type mountPoint struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

func mountAll(points ...mountPoint) error {
	for _, m := range points {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
		}
	}
	return nil
}

const noSuid = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

func mountKernelFilesystems() error {
	return mountAll(
		mountPoint{"proc", "/proc", "proc", noSuid, ""},
		mountPoint{"sysfs", "/sys", "sysfs", noSuid, ""},
		mountPoint{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	)
}

// switchRoot lays the job's files over the images and memory for what is written over both, and
// makes that the root.
func switchRoot(job Job) error {
	lower := []string{FilesDir}
	for i, disk := range job.Images {
		if err := device.Wait(disk); err != nil {
			return err
		}
		dir := filepath.Join(imagesDir, fmt.Sprint(i))
		if err := mountAll(mountPoint{disk, dir, "erofs", unix.MS_RDONLY, ""}); err != nil {
			return err
		}
		lower = append(lower, dir)
	}
	if err := alignDirectories(FilesDir, lower[1:]); err != nil {
		return err
	}
	if err := mountAll(mountPoint{"tmpfs", changesDir, "tmpfs", 0, "mode=0755,size=75%,nr_inodes=0"}); err != nil {
		return err
	}
	upper, work := filepath.Join(changesDir, "upper"), filepath.Join(changesDir, "work")
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
		return err
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(lower, ":"), upper, work)
	if err := mountAll(mountPoint{"overlay", newRoot, "overlay", 0, layers}); err != nil {
		return err
	}
	for _, name := range []string{"proc", "sys", "dev"} {
		target := filepath.Join(newRoot, name)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("/"+name, target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move /%s: %w", name, err)
		}
	}
	if job.Self != "" {
		if err := bindSelf(filepath.Join(newRoot, job.Self)); err != nil {
			return err
		}
	}
	return enterRoot()
}

// alignDirectories gives the directories of a tree the owner and mode that they have in the layers
// below it: in an overlay those of the uppermost layer count.
func alignDirectories(tree string, below []string) error {
	return filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		for _, layer := range below {
			var st unix.Stat_t
			err := unix.Lstat(filepath.Join(layer, strings.TrimPrefix(path, tree)), &st)
			if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
				continue
			}
			if err := unix.Chown(path, int(st.Uid), int(st.Gid)); err != nil {
				return err
			}
			return unix.Chmod(path, st.Mode&0o7777)
		}
		return nil
	})
}

// bindSelf makes this program's file, which is in the initramfs, visible in the new root.
func bindSelf(target string) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o755)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := unix.Mount("/init", target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind /init on %s: %w", target, err)
	}
	return nil
}

func enterRoot() error {
	for _, step := range []func() error{
		func() error { return unix.Chdir(newRoot) },
		func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") },
		func() error { return unix.Chroot(".") },
		func() error { return unix.Chdir("/") },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("enter the new root: %w", err)
		}
	}
	return nil
}

// mountSystem mounts what programs expect beside the root file system itself.
func mountSystem() error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	err := mountAll(
		mountPoint{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666,gid=5"},
		mountPoint{"tmpfs", "/dev/shm", "tmpfs", flags, "mode=1777"},
		mountPoint{"tmpfs", "/run", "tmpfs", flags, "mode=0755"},
		mountPoint{"cgroup2", "/sys/fs/cgroup", "cgroup2", noSuid, ""},
	)
	if err != nil {
		return err
	}
	// devtmpfs makes device nodes, not the links that programs expect beside them.
	for link, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, filepath.Join("/dev", link)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return enableControllers()
}

// enableControllers lets the groups below the root use every controller that the kernel has.
func enableControllers() error {
	text, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return err
	}
	for controller := range strings.FieldsSeq(string(text)) {
		if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+"+controller), 0); err != nil {
			return fmt.Errorf("enable the %s controller: %w", controller, err)
		}
	}
	return nil
}
