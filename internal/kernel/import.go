package kernel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/aethervm/aether/internal/boot"
)

const (
	makingPrefix = ".new-"
	// What a process has been making for so long, it died over.
	makingGrace = time.Hour
	// maxFile bounds the file of a kernel, which is read as a whole. With all its symbols a vmlinux
	// is larger, but those are not installed anywhere.
	maxFile = 512 << 20
	// maxModule bounds a module, unpacked.
	maxModule = 64 << 20
)

// Import takes apart the kernel in the file image (a bzImage such as /boot/vmlinuz-VERSION or an
// uncompressed vmlinux, with its modules in the directory modules, such as /lib/modules/VERSION)
// and keeps it below root. A version that is there already is left as it is. A kernel that no system
// can use is refused; see Lacks.
func Import(root, image, modules string) (Kernel, error) {
	return importImage(context.Background(), root, image, nil, func(string) (string, error) { return modules, nil })
}

// importImage is Import for whoever learns where the modules are from the version only, and wants more of them than
// guests do. Nothing is left behind if ctx ends.
func importImage(ctx context.Context, root, image string, more []string, modules func(version string) (string, error)) (Kernel, error) {
	fail := func(err error) (Kernel, error) {
		return Kernel{}, fmt.Errorf("import guest kernel %s: %w", image, err)
	}
	data, err := readImage(image)
	if err != nil {
		return fail(err)
	}
	version, err := imageVersion(data)
	if err != nil {
		return fail(err)
	}
	final := filepath.Join(root, version)
	if k, err := open(final); err == nil {
		return k, nil
	}
	tree, err := modules(version)
	if err != nil {
		return fail(err)
	}
	vmlinux, _, err := boot.Unpack(data)
	if err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fail(err)
	}
	removeStale(root)
	making, err := os.MkdirTemp(root, makingPrefix)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = os.RemoveAll(making) }() // gone by the rename if all went well
	k := Kernel{Version: version, dir: making}
	if err := k.fill(ctx, vmlinux, tree, more); err != nil {
		return fail(err)
	}
	if err := os.Rename(making, final); err != nil {
		if other, openErr := open(final); openErr == nil { // another process was faster
			return other, nil
		}
		return fail(err)
	}
	k.dir = final
	return k, nil
}

func readImage(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: it is no file", ErrFormat)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrFormat, info.Size(), maxFile)
	}
	return os.ReadFile(path)
}

// banner is how the text begins that a kernel prints first and shows in /proc/version.
const banner = "Linux version "

// imageVersion returns the release that a kernel says it is of: what `uname -r` prints. A bzImage
// says it in its header, a vmlinux in its text.
func imageVersion(image []byte) (string, error) {
	if !isELF(image) {
		version, err := boot.Version(bytes.NewReader(image))
		if err == nil && !validVersion(version) {
			err = fmt.Errorf("%w: version %q", ErrFormat, version)
		}
		return version, err
	}
	// Formats and messages may begin the same, so the first that is followed by a version counts.
	for rest := image; ; {
		_, after, ok := bytes.Cut(rest, []byte(banner))
		if !ok {
			return "", fmt.Errorf("%w: a vmlinux that does not say its version", ErrFormat)
		}
		text, _, found := bytes.Cut(after[:min(len(after), 256)], []byte(" ("))
		if version := string(text); found && validVersion(version) && version[0] >= '0' && version[0] <= '9' {
			return version, nil
		}
		rest = after
	}
}

// isELF tells whether image is a vmlinux, or an unpacked module.
func isELF(image []byte) bool { return bytes.HasPrefix(image, []byte("\x7fELF")) }

// fill writes the kernel's files to k.dir, with more modules than guests need, the manifest last.
func (k *Kernel) fill(ctx context.Context, vmlinux []byte, modules string, more []string) error {
	if err := os.Chmod(k.dir, 0o755); err != nil {
		return err
	}
	parsed, err := boot.Open(bytes.NewReader(vmlinux))
	if err != nil {
		return err
	}
	_, k.PVH = parsed.PVHEntry()
	t, err := openTree(modules)
	if err != nil {
		return err
	}
	if err := k.addModules(ctx, t, slices.Concat(wanted(), more)); err != nil {
		return err
	}
	if err := k.check(); err != nil {
		return err
	}
	if err := os.WriteFile(k.Vmlinux(), vmlinux, 0o644); err != nil {
		return err
	}
	manifest, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(k.dir, manifestName), manifest, 0o644), ctx.Err())
}

// addModules writes the named modules of a tree and those that they depend on.
func (k *Kernel) addModules(ctx context.Context, t tree, names []string) error {
	k.Builtin = []string{}
	for i := 0; i < len(names); i++ { // grows by the dependencies
		name := names[i]
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case slices.Contains(names[:i], name):
			continue
		case t.builtin[name]:
			k.Builtin = append(k.Builtin, name)
			continue
		case t.files[name] == "":
			continue
		}
		data, err := t.load(name)
		if err != nil {
			return err
		}
		info, err := readModinfo(data)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		m := Module{Name: name, Depends: info.Depends}
		if err := os.WriteFile(k.ModulePath(m), data, 0o644); err != nil {
			return err
		}
		k.Modules = append(k.Modules, m)
		names = append(names, info.Depends...)
	}
	return nil
}

// Remove removes the kernel of exactly that version. Guests that run keep what they have open.
// fs.ErrNotExist is wrapped if there is none.
func Remove(root, version string) error {
	fail := func(err error) error { return fmt.Errorf("remove guest kernel %s: %w", version, err) }
	if !validVersion(version) {
		return fail(os.ErrNotExist)
	}
	if _, err := os.Stat(filepath.Join(root, version)); err != nil {
		return fail(err)
	}
	// Out of sight first, so that what is half removed is never taken for a kernel.
	going, err := os.MkdirTemp(root, makingPrefix)
	if err != nil {
		return fail(err)
	}
	err = os.Rename(filepath.Join(root, version), filepath.Join(going, version))
	if err = errors.Join(err, os.RemoveAll(going)); err != nil {
		return fail(err)
	}
	return nil
}

// removeStale removes what processes that died left half-made.
func removeStale(root string) {
	stale, _ := filepath.Glob(filepath.Join(root, makingPrefix+"*"))
	for _, dir := range stale {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > makingGrace {
			_ = os.RemoveAll(dir)
		}
	}
}
