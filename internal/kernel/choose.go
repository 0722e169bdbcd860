package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// EnvKernel names an environment variable that chooses the kernel: the version of one that is kept,
// or the beginning of it, such as 6.1 (see Choose); or, with a slash, the path of a file (see Obtain).
const EnvKernel = "AETHER_KERNEL"

// preferred are kernels that the guests of a system get although there are newer ones, by the
// beginning of their version. Linux 6.12 sometimes dies while it boots if QEMU 7.2 emulates the processor
// (docs/RATIONALE.md).
var preferred = map[string]string{qemu: "6.1"}

// List returns the kernels kept below root, the newest first. A root that does not exist has none.
func List(root string) ([]Kernel, error) {
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list guest kernels: %w", err)
	}
	var all []Kernel
	for _, e := range entries {
		if !e.IsDir() || !validVersion(e.Name()) {
			continue
		}
		k, err := open(filepath.Join(root, e.Name()))
		if err != nil {
			return nil, err
		}
		all = append(all, k)
	}
	slices.SortStableFunc(all, func(a, b Kernel) int { return compareVersions(b.Version, a.Version) })
	return all, nil
}

// Choose returns the newest kernel kept below root whose version is name or begins with name and a
// separator, as 6.1.0-50-cloud-amd64 does with 6.1 but not with 6. or 6.10. An empty name is the
// newest of all. fs.ErrNotExist is wrapped if there is none.
func Choose(root, name string) (Kernel, error) {
	all, err := List(root)
	if err != nil {
		return Kernel{}, err
	}
	for _, k := range all {
		if rest, ok := strings.CutPrefix(k.Version, name); ok && (name == "" || rest == "" || strings.ContainsRune(".-+~_", rune(rest[0]))) {
			return k, nil
		}
	}
	what := "a guest kernel"
	if name != "" {
		what += " of version " + name
	}
	return Kernel{}, fmt.Errorf("find %s in %s: %w", what, root, fs.ErrNotExist)
}

// Find returns the newest kernel kept below root; fs.ErrNotExist is wrapped if there is none.
func Find(root string) (Kernel, error) { return Choose(root, "") }

// Default returns the kernel of those below root that guests of a system are given: the one that the
// environment names, else one that is known to be best for the system, else the newest. A path in the
// environment is that of a kernel that may not be there yet. fs.ErrNotExist is wrapped if there is none.
func Default(root, system string) (Kernel, error) {
	name := os.Getenv(EnvKernel)
	if name == "" {
		if k, err := Choose(root, preferred[system]); !errors.Is(err, fs.ErrNotExist) {
			return k, err
		}
	}
	if !strings.Contains(name, "/") {
		return Choose(root, name)
	}
	data, err := readImage(name)
	var version string
	if err == nil {
		version, err = imageVersion(data)
	}
	if err != nil {
		return Kernel{}, fmt.Errorf("%s=%s: %w", EnvKernel, name, err)
	}
	return Choose(root, version)
}
