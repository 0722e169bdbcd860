package pid1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guest/device"
	"github.com/aethervm/aether/internal/guest/files"
)

const (
	imageDevice = "/dev/vda"
	newRoot     = "/aether/root"
	agentMount  = ".aether/agent" // below the new root
)

type mountPoint struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

func (m mountPoint) mount() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
	}
	return nil
}

func mountAll(points ...mountPoint) error {
	for _, m := range points {
		if err := m.mount(); err != nil {
			return err
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
		// Group 5 is tty in every distribution; programs that look for it expect terminals to be its.
		mountPoint{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666,gid=5"},
	)
}

// switchRoot makes an overlay of the image, read only, and memory the root of all that follows.
// What is written lives in memory, so that a saved machine is whole without its disk. It returns
// the directory in which it does, which is out of sight from then on, and what tells what was written.
func switchRoot() (changes *os.File, tree *files.Tree, err error) {
	if err := device.Wait(imageDevice); err != nil {
		return nil, nil, err
	}
	const work = "/aether"
	err = mountAll(
		mountPoint{imageDevice, work + "/image", "erofs", unix.MS_RDONLY, ""},
		mountPoint{"tmpfs", work + "/changes", "tmpfs", 0, "mode=0755"},
	)
	if err != nil {
		return nil, nil, err
	}
	if changes, err = os.Open(work + "/changes"); err != nil {
		return nil, nil, err
	}
	if tree, err = openTree(work); err != nil {
		return nil, nil, errors.Join(err, changes.Close())
	}
	if err := overlayRoot(work); err != nil {
		return nil, nil, errors.Join(err, changes.Close(), tree.Close())
	}
	return changes, tree, nil
}

// openTree makes the directories that an overlay writes to, and opens what it is made of.
func openTree(work string) (*files.Tree, error) {
	for _, dir := range []string{upperDir, "work"} {
		if err := os.Mkdir(filepath.Join(work, "changes", dir), 0o755); err != nil {
			return nil, err
		}
	}
	upper, err := os.Open(filepath.Join(work, "changes", upperDir))
	if err != nil {
		return nil, err
	}
	image, err := os.Open(filepath.Join(work, "image"))
	if err != nil {
		return nil, errors.Join(err, upper.Close())
	}
	return files.OverlayTree(upper, image), nil
}

const upperDir = "upper"

func overlayRoot(work string) error {
	// Without redirects and metacopies, which a kernel may have on by default, what was written can be told from upper.
	layers := fmt.Sprintf("lowerdir=%[1]s/image,upperdir=%[1]s/changes/%[2]s,workdir=%[1]s/changes/work,redirect_dir=off,metacopy=off",
		work, upperDir)
	if err := mountAll(mountPoint{"overlay", newRoot, "overlay", 0, layers}); err != nil {
		return err
	}
	if err := moveMounts(); err != nil {
		return err
	}
	if err := bindAgent(); err != nil {
		return err
	}
	if err := enterRoot(); err != nil {
		return err
	}
	return mountAll(
		mountPoint{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666,gid=5"},
		mountPoint{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		mountPoint{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	)
}

// resizeTmpfs bounds a mounted tmpfs, of which dir is the root.
func resizeTmpfs(dir *os.File, bytes int64) error {
	fd, err := unix.Fspick(int(dir.Fd()), "", unix.FSPICK_EMPTY_PATH|unix.FSPICK_CLOEXEC)
	if err != nil {
		return fmt.Errorf("bound the file system: %w", err)
	}
	err = unix.FsconfigSetString(fd, "size", strconv.FormatInt(bytes, 10))
	if err == nil {
		err = unix.FsconfigReconfigure(fd)
	}
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("bound the file system: %w", err)
	}
	return nil
}

func moveMounts() error {
	for _, name := range []string{"proc", "sys", "dev"} {
		target := filepath.Join(newRoot, name)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("/"+name, target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move /%s: %w", name, err)
		}
	}
	// devtmpfs makes device nodes, not the links that programs expect beside them.
	for link, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, filepath.Join(newRoot, "dev", link)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// bindAgent makes this program's file, which is in the initramfs, visible in the new root.
func bindAgent() error {
	target := filepath.Join(newRoot, agentMount)
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
		return fmt.Errorf("bind the agent: %w", err)
	}
	if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("bind the agent read only: %w", err)
	}
	return nil
}

func enterRoot() error {
	if err := unix.Chdir(newRoot); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the new root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	return nil
}
