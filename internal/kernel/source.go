package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

// Remedy is what a user can do when no kernel can be had.
const Remedy = "give it one: `aether kernel import debian:bookworm-backports`, or `aether kernel import FILE`"

// debianPrefix begins a source that is a suite of Debian.
const debianPrefix = "debian:"

var suiteName = regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)

// Progress is told what is being done. It may be nil.
type Progress func(phase string)

func (p Progress) say(format string, args ...any) {
	if p != nil {
		p(fmt.Sprintf(format, args...))
	}
}

// Obtain keeps the kernel that source names below root:
//
//   - "": the one that this host runs, if it is installed as files;
//   - debian:SUITE: the cloud kernel of a suite of Debian, downloaded;
//   - FILE: a bzImage, a vmlinux or a package linux-image-* (.deb).
//
// modules is the directory of its modules; "" is where they usually are. It does not go with a
// package or a suite. Nothing is left behind if ctx ends.
func Obtain(ctx context.Context, root, source, modules string, progress Progress) (Kernel, error) {
	suite, isSuite := strings.CutPrefix(source, debianPrefix)
	invalid := func(detail, remedy string) (Kernel, error) {
		return Kernel{}, &sandbox.Error{Op: "import guest kernel", Err: sandbox.ErrInvalid, Detail: detail, Remedy: remedy}
	}
	switch {
	case modules != "" && (isSuite || isPackage(source)):
		return invalid("a package has modules of its own", "leave --modules away")
	case isSuite && !suiteName.MatchString(suite):
		return invalid(fmt.Sprintf("%q is no suite of Debian", suite), "name one such as debian:bookworm-backports")
	case isSuite:
		return FetchSuite(ctx, root, suite, progress)
	case source == "":
		image, release, err := hostImage("/")
		if err != nil {
			return Kernel{}, err
		}
		if modules == "" {
			modules = filepath.Join("/lib/modules", release)
		}
		progress.say("take apart %s", image)
		return importFile(ctx, root, image, modules)
	}
	progress.say("take apart %s", source)
	if modules == "" {
		return obtainFile(ctx, root, source)
	}
	return importFile(ctx, root, source, modules)
}

func isPackage(source string) bool { return filepath.Ext(source) == ".deb" }

// hostImage finds the kernel that this host runs, and its release, below a root directory. Hosts
// that are microVMs themselves, and containers, have none.
func hostImage(root string) (image, release string, err error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", "", fmt.Errorf("release of the running kernel: %w", err)
	}
	release = unix.ByteSliceToString(name.Release[:])
	places := []string{filepath.Join("boot", "vmlinuz-"+release), filepath.Join("usr/lib/modules", release, "vmlinuz")}
	for i, place := range places {
		places[i] = filepath.Join(root, place)
		if _, err := os.Stat(places[i]); err == nil {
			return places[i], release, nil
		}
	}
	return "", "", &sandbox.Error{Op: "import guest kernel", Err: fs.ErrNotExist,
		Detail: "this host has no file of the kernel that it runs, neither " + strings.Join(places, " nor "),
		Remedy: "take Debian's: `aether kernel import debian:bookworm-backports`"}
}

// importFile imports a bzImage or vmlinux whose modules are, unless it is told, where they usually
// are: beside the image, as in an unpacked package, or on this host.
func importFile(ctx context.Context, root, image, modules string, more ...string) (Kernel, error) {
	return importImage(ctx, root, image, more, func(version string) (string, error) {
		places := []string{modules}
		if modules == "" {
			path, err := filepath.Abs(image)
			if err != nil {
				return "", err
			}
			dir := filepath.Dir(path)
			up := filepath.Dir(dir)
			places = []string{filepath.Join(up, "lib/modules", version), filepath.Join(up, "usr/lib/modules", version)}
			if filepath.Base(dir) == version {
				places = append(places, dir)
			}
			places = append(places, filepath.Join("/lib/modules", version))
		}
		for _, place := range places {
			if _, err := os.Stat(filepath.Join(place, builtinName)); err == nil {
				return place, nil
			}
		}
		return "", &sandbox.Error{Op: "find its modules", Err: fs.ErrNotExist,
			Detail: "there is no " + builtinName + " of " + version + " in " + strings.Join(places, ", "),
			Remedy: "say where they are with --modules DIR, or take a whole kernel: `aether kernel import debian:bookworm-backports`"}
	})
}

// Ensure returns the kernel that guests of a system are to run: Default's or, if none is kept below
// root, Debian's cloud kernel, which it downloads. A file that the environment names is imported.
func Ensure(ctx context.Context, root, system string) (Kernel, error) {
	name := os.Getenv(EnvKernel)
	if strings.Contains(name, "/") {
		k, err := obtainFile(ctx, root, name)
		if err != nil {
			err = fmt.Errorf("%s=%s: %w", EnvKernel, name, err)
		}
		return k, err
	}
	k, err := Default(root, system)
	if errors.Is(err, fs.ErrNotExist) && name == "" {
		return FetchSuite(ctx, root, defaultSuite, nil)
	}
	return k, err
}

func obtainFile(ctx context.Context, root, file string) (Kernel, error) {
	if isPackage(file) {
		return ImportPackage(ctx, root, file)
	}
	return importFile(ctx, root, file, "")
}
