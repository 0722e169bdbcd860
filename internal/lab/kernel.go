package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aethervm/aether/internal/filelock"
	"github.com/aethervm/aether/internal/kernel"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/sandbox"
)

// kernelPrefix begins the directory of a kernel that a lab can run in place of its base's own:
// vmlinux, the modules that are loaded, and a manifest.
const kernelPrefix = "kernel-"

// DefaultKernel is the version of the kernel of a lab's base, without patch level.
const DefaultKernel = "6.1"

// suiteOf is the suite of Debian that has a kernel, by its version without patch level.
var suiteOf = map[string]string{"6.12": suite + "-backports"}

// Kernels lists the versions that a lab can run, without patch level; the default is the first.
func Kernels() []string { return []string{DefaultKernel, "6.12"} }

// kernelModules are those of a kernel that has no file system of modules to take others from: what a lab
// loads, in that order.
func kernelModules() []string { return slices.Concat(earlyModules, lateModules) }

// kernelKey is the digest of how the directory of a kernel is made. A change of layout changes the first word.
func kernelKey(version string) string {
	words := []string{"1", version, suiteOf[version], strings.Join(kernelModules(), ",")}
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return version + "-" + hex.EncodeToString(sum[:8])
}

func checkKernel(version string) error {
	if slices.Contains(Kernels(), version) {
		return nil
	}
	return &sandbox.Error{Op: "choose the lab's kernel", Err: sandbox.ErrInvalid, Detail: fmt.Sprintf("%q is none that a lab can run", version),
		Remedy: "choose one of " + strings.Join(Kernels(), ", ")}
}

// BuildKernel makes what a lab of dir needs to run another kernel, one of Kernels, unless it is there. The default comes
// with the lab. progress is as in Build, and so is all else.
func BuildKernel(ctx context.Context, dir, version string, progress func(phase string)) (err error) {
	if err := checkKernel(version); err != nil || version == DefaultKernel {
		return err
	}
	if progress == nil {
		progress = func(string) {}
	}
	fail := func(err error) error { return fmt.Errorf("build the lab's kernel %s: %w", version, err) }
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fail(err)
	}
	guard, err := filelock.Wait(ctx, filepath.Join(dir, lockName), filelock.Exclusive, 0o644, func() { progress("wait for another build") })
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, guard.Close()) }()
	work, err := lease.Acquire(filepath.Join(dir, tmpName))
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, removeTree(work.Dir), work.Release()) }()
	err = ensure(filepath.Join(dir, kernelPrefix+kernelKey(version)), filepath.Join(work.Dir, "kernel"), func(tmp string) error {
		return makeKernel(ctx, tmp, work.Dir, version, progress)
	})
	switch {
	case ctx.Err() != nil:
		return fail(context.Cause(ctx))
	case err != nil:
		return fail(err)
	}
	return nil
}

// makeKernel makes the directory of a kernel in dir. work is a directory for what is of no use afterwards.
func makeKernel(ctx context.Context, dir, work, version string, phase func(string)) error {
	k, err := kernel.FetchSuite(ctx, filepath.Join(work, "kernels"), suiteOf[version], phase, kernelModules()...)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(k.Version, version+".") {
		return &sandbox.Error{Op: "lab build", Err: sandbox.ErrUnavailable, Remedy: "choose another kernel",
			Detail: fmt.Sprintf("Debian %s has Linux %s, not %s, by now", suiteOf[version], k.Version, version)}
	}
	return keepKernel(dir, k)
}

// keepKernel writes the directory of a kernel.
func keepKernel(dir string, k kernel.Kernel) error {
	if err := os.MkdirAll(filepath.Join(dir, modulesName), 0o755); err != nil {
		return err
	}
	m := manifest{Kernel: k.Version}
	for _, module := range k.Load(kernelModules()...) {
		name := filepath.Base(k.ModulePath(module))
		if err := copyFile(filepath.Join(dir, modulesName, name), k.ModulePath(module)); err != nil {
			return err
		}
		m.Early = append(m.Early, name)
	}
	if err := copyFile(filepath.Join(dir, vmlinuxName), k.Vmlinux()); err != nil {
		return err
	}
	return writeJSON(filepath.Join(dir, manifestName), m)
}

// WithKernel returns the lab with another kernel, one of Kernels. An error that wraps sandbox.ErrUnavailable says that
// BuildKernel has not been called for it.
func (i Image) WithKernel(version string) (Image, error) {
	if err := checkKernel(version); err != nil || version == DefaultKernel {
		return i, err
	}
	name := kernelPrefix + kernelKey(version)
	m, err := readManifest(filepath.Join(i.dir, name))
	if err != nil {
		detail := err.Error()
		if errors.Is(err, fs.ErrNotExist) {
			detail = "the lab has no kernel " + version
		}
		return i, &sandbox.Error{Op: "open lab", Err: sandbox.ErrUnavailable, Detail: detail,
			Remedy: "run `aether lab build --kernel " + version + "`"}
	}
	// All of its modules are loaded at the start: the root file system has those of the base's kernel only.
	i.Kernel, i.kernel, i.early, i.late = m.Kernel, name, m.Early, nil
	return i, nil
}

// staleKernel tells whether a directory is that of a kernel that was made in another way.
func staleKernel(name string) bool {
	return strings.HasPrefix(name, kernelPrefix) && !slices.ContainsFunc(Kernels(), func(version string) bool {
		return name == kernelPrefix+kernelKey(version)
	})
}
