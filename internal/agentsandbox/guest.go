package agentsandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aethervm/aether/internal/guestagent"
	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/internal/initramfs"
	"github.com/aethervm/aether/internal/kernel"
	"github.com/aethervm/aether/internal/memfile"
	"github.com/aethervm/aether/sandbox"
)

// Guest is what every guest of a driver boots from. The files are handed to machines as descriptors,
// so that those need no access to where they are kept.
type Guest struct {
	Kernel kernel.Kernel
	Image  *os.File // the kernel's vmlinux
	Initrd *os.File // in memory only, sealed
}

// OpenGuest opens the kernel that guests are to run and makes an initramfs of the agent and of those
// of the given kernel modules that the kernel has not built in. The agent serves when modules are loaded,
// and loads the late ones a while after, or when it is to set up a network.
func OpenGuest(ctx context.Context, system string, modules []string, late ...string) (*Guest, error) {
	agent, err := guestagent.Path()
	if err != nil {
		remedy := "build it with `make agent`"
		if errors.Is(err, fs.ErrPermission) {
			remedy = "run as root, or set AETHER_STATE to a directory of your own"
		}
		return nil, &sandbox.Error{Op: "probe", System: system, Err: sandbox.ErrUnavailable, Detail: err.Error(), Remedy: remedy}
	}
	state, err := hostdir.State()
	if err != nil {
		return nil, err
	}
	k, err := kernel.Ensure(ctx, filepath.Join(state, "kernels"), system)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		failed := &sandbox.Error{Op: "probe", System: system, Err: sandbox.ErrUnavailable, Detail: err.Error(), Remedy: kernel.Remedy}
		if e, ok := errors.AsType[*sandbox.Error](err); ok {
			failed.Detail, failed.Remedy = e.Detail, e.Remedy
		}
		return nil, failed
	}
	if lacks := k.Lacks()[system]; len(lacks) > 0 {
		return nil, &sandbox.Error{Op: "probe", System: system, Err: sandbox.ErrUnavailable,
			Detail: fmt.Sprintf("guest kernel %s lacks %s", k.Version, strings.Join(lacks, ", ")), Remedy: kernel.Remedy}
	}
	g := &Guest{Kernel: k}
	if g.Image, err = os.Open(k.Vmlinux()); err != nil {
		return nil, err
	}
	if g.Initrd, err = buildInitrd(agent, k, modules, late); err != nil {
		return nil, errors.Join(err, g.Image.Close())
	}
	return g, nil
}

// ShareKernel moves the kernel to a file in memory that nobody can change, so that machines can map it for
// loading it.
func (g *Guest) ShareKernel() error {
	info, err := g.Image.Stat()
	if err != nil {
		return err
	}
	shared, err := memfile.Sealed("aether-kernel", func(f *os.File) error {
		_, err := io.Copy(f, io.NewSectionReader(g.Image, 0, info.Size()))
		return err
	})
	if err != nil {
		return err
	}
	err = g.Image.Close()
	g.Image = shared
	return err
}

// Close closes the files.
func (g *Guest) Close() error { return errors.Join(g.Image.Close(), g.Initrd.Close()) }

// buildInitrd makes the guest's first root file system: the agent as init, and kernel modules.
func buildInitrd(agent string, k kernel.Kernel, modules, late []string) (*os.File, error) {
	files := []initramfs.File{{Name: "init", Mode: 0o755, Source: agent}}
	early := len(k.Load(modules...))
	var order, later bytes.Buffer
	for i, m := range k.Load(slices.Concat(modules, late)...) { // those of modules come first
		list := &order
		if i >= early {
			list = &later
		}
		fmt.Fprintln(list, m.Name)
		files = append(files, initramfs.File{Name: "modules/" + m.Name + ".ko", Mode: 0o644, Source: k.ModulePath(m)})
	}
	files = append(files,
		initramfs.File{Name: "modules/order", Mode: 0o644, Data: order.Bytes()},
		initramfs.File{Name: "modules/late", Mode: 0o644, Data: later.Bytes()})
	// Machines run as somebody else, and many of them share the file.
	return memfile.Sealed("aether-initrd", func(f *os.File) error { return initramfs.Write(f, files) })
}

// diskForm names the form of an image that is derived for virtual machines; a new layout gets a new
// name.
const diskForm = "root-1.erofs"

// mkfsName makes the disk.
const mkfsName = "mkfs.erofs"

// FindMkfs finds the program that RootDisk needs for an image that is used for the first time.
func FindMkfs(system string) (string, error) { return FindTool(system, mkfsName, "erofs-utils") }

// RootDisk opens the image as a read-only disk, which is made when the image is first used.
func RootDisk(ctx context.Context, system string, img sandbox.Image) (*os.File, error) {
	path, err := image.Derived(ctx, img, diskForm, func(ctx context.Context, tmp string) error {
		mkfs, err := FindMkfs(system)
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

// FindTool finds a program that belongs to the Debian package pkg.
func FindTool(system, name, pkg string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", &sandbox.Error{Op: "probe", System: system, Err: sandbox.ErrUnavailable,
			Detail: name + " is not installed", Remedy: "run `make peers`, or `apt-get install " + pkg + "`"}
	}
	return path, nil
}
