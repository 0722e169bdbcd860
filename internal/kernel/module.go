package kernel

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/aethervm/aether/internal/boot"
)

// modinfo is what a module says about itself in its .modinfo section.
type modinfo struct {
	Name    string
	Depends []string
}

// readModinfo reads the section of an unpacked module. Packages of distributions come without
// modules.dep (depmod makes it when they are installed), while every module names its dependencies.
func readModinfo(module []byte) (modinfo, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return modinfo{}, fmt.Errorf("%w: module: %w", ErrFormat, err)
	}
	section := f.Section(".modinfo")
	if section == nil || section.Size > 1<<20 {
		return modinfo{}, fmt.Errorf("%w: module without a .modinfo section", ErrFormat)
	}
	data, err := section.Data()
	if err != nil {
		return modinfo{}, fmt.Errorf("%w: module: %w", ErrFormat, err)
	}
	return parseModinfo(data)
}

// parseModinfo decodes NUL-terminated key=value strings.
func parseModinfo(data []byte) (modinfo, error) {
	var info modinfo
	for field := range bytes.SplitSeq(data, []byte{0}) {
		key, value, ok := strings.Cut(string(field), "=")
		if !ok {
			continue // padding
		}
		switch key {
		case "name":
			info.Name = moduleName(value)
		case "depends":
			for dep := range strings.SplitSeq(value, ",") {
				if dep != "" {
					info.Depends = append(info.Depends, moduleName(dep))
				}
			}
		}
	}
	for _, name := range append([]string{info.Name}, info.Depends...) {
		if !validVersion(name) {
			return modinfo{}, fmt.Errorf("%w: module name %q", ErrFormat, name)
		}
	}
	return info, nil
}

// moduleName is the name as the kernel spells it: '-' and '_' are the same in file names.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// builtinName is the file of a tree that lists what is built in.
const builtinName = "modules.builtin"

// tree is a directory of modules, as /lib/modules/VERSION.
type tree struct {
	files   map[string]string // by name
	builtin map[string]bool
}

func openTree(dir string) (tree, error) {
	t := tree{files: map[string]string{}, builtin: map[string]bool{}}
	err := filepath.WalkDir(filepath.Join(dir, "kernel"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if base, _, ok := strings.Cut(d.Name(), ".ko"); ok && d.Type().IsRegular() {
			t.files[moduleName(base)] = path
		}
		return nil
	})
	if err != nil {
		return tree{}, fmt.Errorf("list kernel modules: %w", err)
	}
	list, err := os.ReadFile(filepath.Join(dir, builtinName))
	if err != nil {
		return tree{}, fmt.Errorf("list built-in kernel modules: %w", err)
	}
	for line := range strings.Lines(string(list)) {
		t.builtin[moduleName(strings.TrimSuffix(filepath.Base(strings.TrimSpace(line)), ".ko"))] = true
	}
	return t, nil
}

// load returns the unpacked module of that name.
func (t tree) load(name string) ([]byte, error) {
	data, err := os.ReadFile(t.files[name])
	if err != nil {
		return nil, fmt.Errorf("read kernel module %s: %w", name, err)
	}
	if isELF(data) {
		return data, nil
	}
	if data, err = boot.Decompress(data, maxModule); err != nil {
		return nil, fmt.Errorf("unpack kernel module %s: %w", name, err)
	}
	return data, nil
}

// order sorts modules so that each comes after those that it depends on. What have lacks is taken
// to be built in. The order is the same for the same input.
func order(have map[string]Module, names []string) []Module {
	var out []Module
	seen := map[string]bool{}
	var visit func(string)
	visit = func(name string) {
		m, ok := have[name]
		if seen[name] || !ok {
			return
		}
		seen[name] = true // before the descent, so that a cycle ends
		for _, dep := range m.Depends {
			visit(dep)
		}
		out = append(out, m)
	}
	for _, name := range names {
		visit(moduleName(name))
	}
	return out
}
