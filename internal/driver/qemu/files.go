package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guestagent"
	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/internal/initramfs"
	"github.com/aethervm/aether/internal/kernel"
	"github.com/aethervm/aether/internal/tsc"
	"github.com/aethervm/aether/sandbox"
)

// guestModules are the kernel modules that a guest needs, whichever of them its kernel has as
// modules.
var guestModules = []string{"virtio_mmio", "virtio_blk", "virtio_console", "erofs", "overlay"}

// guestFiles are what every guest of a driver boots from. They are handed to QEMU as descriptors,
// so that it needs no access to where they are kept.
type guestFiles struct {
	kernel kernel.Kernel
	image  *os.File // the kernel
	initrd *os.File // in memory only
	tscKHz int      // of the host's time-stamp counter
}

func openGuestFiles(ctx context.Context) (*guestFiles, error) {
	agent, err := guestagent.Path()
	if err != nil {
		return nil, &sandbox.Error{Op: "probe", System: System, Err: sandbox.ErrUnavailable,
			Detail: err.Error(), Remedy: "build it with `make agent`"}
	}
	state, err := hostdir.State()
	if err != nil {
		return nil, err
	}
	k, err := kernel.Ensure(ctx, filepath.Join(state, "kernels"))
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &sandbox.Error{Op: "probe", System: System, Err: sandbox.ErrUnavailable,
			Detail: err.Error(), Remedy: kernel.Remedy}
	}
	g := &guestFiles{kernel: k, tscKHz: tsc.KHz()}
	if g.image, err = os.Open(k.Vmlinux()); err != nil {
		return nil, err
	}
	if g.initrd, err = buildInitrd(agent, k); err != nil {
		return nil, errors.Join(err, g.image.Close())
	}
	return g, nil
}

func (g *guestFiles) close() error { return errors.Join(g.image.Close(), g.initrd.Close()) }

// buildInitrd makes the guest's first root file system: the agent as init, and kernel modules.
func buildInitrd(agent string, k kernel.Kernel) (*os.File, error) {
	files := []initramfs.File{{Name: "init", Mode: 0o755, Source: agent}}
	var order bytes.Buffer
	for _, m := range k.Load(guestModules...) {
		fmt.Fprintln(&order, m.Name)
		files = append(files, initramfs.File{Name: "modules/" + m.Name + ".ko", Mode: 0o644, Source: k.ModulePath(m)})
	}
	files = append(files, initramfs.File{Name: "modules/order", Mode: 0o644, Data: order.Bytes()})
	f, err := newMemfile("aether-initrd")
	if err != nil {
		return nil, err
	}
	if err := initramfs.Write(f, files); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// QEMU runs as somebody else, and many of them share the file.
	seals := unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, errors.Join(fmt.Errorf("seal the initramfs: %w", err), f.Close())
	}
	return f, nil
}

func newMemfile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// diskForm names the form of an image that is derived for QEMU; a new layout gets a new name.
const diskForm = "root-1.erofs"

// rootDisk opens the image as a read-only disk, which is made when the image is first used.
func rootDisk(ctx context.Context, img sandbox.Image) (*os.File, error) {
	path, err := image.Derived(ctx, img, diskForm, func(ctx context.Context, tmp string) error {
		mkfs, err := findTool("mkfs.erofs", "erofs-utils")
		if err != nil {
			return err
		}
		// Not compressed: a guest under software emulation would pay for it at every first read.
		cmd := exec.CommandContext(ctx, mkfs, "--quiet", "-T0", "-Enoinline_data", tmp, img.Rootfs)
		if out, err := cmd.CombinedOutput(); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("mkfs.erofs: %w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return os.Open(path)
}
