package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// metaPackage depends on the newest kernel of the release that is built for virtual machines.
const metaPackage = "linux-image-cloud-amd64"

// EnvImage names an environment variable with the path of a bzImage to use in place of Debian's
// kernel. Its modules are looked for in /lib/modules/VERSION, on the host and beside the image.
const EnvImage = "AETHER_KERNEL"

// Remedy is what a user can do when no kernel can be had.
const Remedy = "install apt with a Debian package source, or set " + EnvImage +
	" to a kernel such as /boot/vmlinuz-VERSION that has virtio, erofs and overlay"

// Ensure returns the kernel that guests are to run: the one that the environment names, else the
// newest one kept below root, else Debian's cloud kernel, which it fetches with apt.
func Ensure(ctx context.Context, root string) (Kernel, error) {
	if image := os.Getenv(EnvImage); image != "" {
		return importBeside(root, image)
	}
	k, err := Find(root)
	if errors.Is(err, fs.ErrNotExist) {
		return Fetch(ctx, root)
	}
	return k, err
}

// importBeside finds the modules that belong to an image by its version.
func importBeside(root, image string) (Kernel, error) {
	data, err := os.ReadFile(image)
	if err != nil {
		return Kernel{}, fmt.Errorf("read guest kernel of %s: %w", EnvImage, err)
	}
	version, err := imageVersion(data)
	if err != nil {
		return Kernel{}, fmt.Errorf("guest kernel %s: %w", image, err)
	}
	beside := filepath.Join(filepath.Dir(filepath.Dir(image)), "lib/modules", version)
	if _, err := os.Stat(beside); err != nil {
		beside = filepath.Join("/lib/modules", version)
	}
	return Import(root, image, beside)
}

// Fetch downloads Debian's current cloud kernel with apt-get, unpacks it without installing it, and
// keeps it below root.
func Fetch(ctx context.Context, root string) (Kernel, error) {
	fail := func(err error) (Kernel, error) {
		return Kernel{}, fmt.Errorf("fetch guest kernel: %w", err)
	}
	dir, err := os.MkdirTemp("", "aether-kernel-")
	if err != nil {
		return fail(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()

	pkg, err := currentPackage(ctx, dir)
	if err == nil {
		err = download(ctx, dir, pkg)
	}
	if err != nil {
		// The package lists may be missing or older than the archive. Other sources of the host
		// may be out of reach; what counts is whether the package can be had afterwards.
		_, updateErr := run(ctx, dir, "apt-get", "-qq", "update")
		if pkg, err = currentPackage(ctx, dir); err == nil {
			err = download(ctx, dir, pkg)
		}
		if err != nil {
			return fail(errors.Join(err, updateErr))
		}
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fail(fmt.Errorf("apt-get download %s left %d packages", pkg, len(debs)))
	}
	unpacked := filepath.Join(dir, "root")
	if _, err := run(ctx, dir, "dpkg-deb", "-x", debs[0], unpacked); err != nil {
		return fail(err)
	}
	version := strings.TrimPrefix(pkg, "linux-image-")
	modules := filepath.Join(unpacked, "lib/modules", version)
	if _, err := os.Stat(modules); err != nil {
		modules = filepath.Join(unpacked, "usr/lib/modules", version)
	}
	return Import(root, filepath.Join(unpacked, "boot", "vmlinuz-"+version), modules)
}

var kernelPackage = regexp.MustCompile(`\blinux-image-\d[0-9a-z.+~-]*-cloud-amd64\b`)

// currentPackage resolves the meta package.
func currentPackage(ctx context.Context, dir string) (string, error) {
	out, err := run(ctx, dir, "apt-cache", "--no-all-versions", "show", metaPackage)
	if err != nil {
		return "", err
	}
	return parsePackage(out)
}

func parsePackage(show string) (string, error) {
	for line := range strings.Lines(show) {
		if value, ok := strings.CutPrefix(line, "Depends:"); ok {
			if pkg := kernelPackage.FindString(value); pkg != "" {
				return pkg, nil
			}
		}
	}
	return "", fmt.Errorf("%s depends on no kernel that is known here", metaPackage)
}

func download(ctx context.Context, dir, pkg string) error {
	// As root apt would hand the download to a user that cannot write to dir.
	_, err := run(ctx, dir, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", pkg)
	return err
}

// run returns the standard output of a program; errors hold the end of its standard error.
func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		text := ""
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			text = ": " + strings.TrimSpace(string(exit.Stderr[max(0, len(exit.Stderr)-512):]))
		}
		return "", fmt.Errorf("%s %s: %w%s", name, args[len(args)-1], err, text)
	}
	return string(out), nil
}
