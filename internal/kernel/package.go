package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/aethervm/aether/internal/debian"
)

const (
	// metaPackage depends on the newest kernel of a suite that is built for virtual machines.
	metaPackage = "linux-image-cloud-amd64"
	// defaultSuite is where the kernel comes from if nobody has chosen one.
	defaultSuite = "bookworm"
)

var kernelPackage = regexp.MustCompile(`^linux-image-\d[0-9a-z.+~-]*-cloud-amd64$`)

// FetchSuite downloads the cloud kernel of a suite of Debian, such as "bookworm" (Linux 6.1) or
// "bookworm-backports" (6.12), and keeps it below root, with more modules than guests need if they are named. It leaves
// the host's apt as it is.
func FetchSuite(ctx context.Context, root, suite string, progress Progress, more ...string) (_ Kernel, err error) {
	fail := func(err error) (Kernel, error) {
		return Kernel{}, fmt.Errorf("fetch guest kernel of Debian %s: %w", suite, err)
	}
	progress.say("download the package lists of Debian %s", suite)
	archive, err := debian.Open(ctx, suite)
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, archive.Close()) }()
	depends, err := archive.Depends(ctx, metaPackage)
	if err != nil {
		return fail(err)
	}
	pkg := ""
	for _, d := range depends {
		if kernelPackage.MatchString(d) {
			pkg = d
		}
	}
	if pkg == "" {
		return fail(fmt.Errorf("%s depends on no kernel that is known here", metaPackage))
	}
	dir, err := os.MkdirTemp("", "aether-kernel-")
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	progress.say("download %s", pkg)
	debs, err := archive.Download(ctx, dir, pkg)
	if err != nil {
		return fail(err)
	}
	progress.say("unpack %s", pkg)
	return ImportPackage(ctx, root, debs[0], more...)
}

// ImportPackage keeps the kernel in a package linux-image-* (a .deb file) below root, without
// installing the package. more are modules to keep beside those that guests need.
func ImportPackage(ctx context.Context, root, deb string, more ...string) (_ Kernel, err error) {
	fail := func(err error) (Kernel, error) {
		return Kernel{}, fmt.Errorf("import guest kernel of %s: %w", deb, err)
	}
	dir, err := os.MkdirTemp("", "aether-kernel-")
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := debian.Unpack(ctx, deb, dir); err != nil {
		return fail(err)
	}
	images, err := filepath.Glob(filepath.Join(dir, "boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return fail(fmt.Errorf("%w: %d kernels in the package, want one", ErrFormat, len(images)))
	}
	return importFile(ctx, root, images[0], "", more...)
}
