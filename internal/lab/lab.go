// Package lab runs programs in a virtual machine that has real KVM, on any x86-64 host: QEMU
// emulates a processor with AMD's virtualisation in software, and kvm-amd in the machine uses it.
// Its clock can be made to count instructions, so that what is measured inside does not depend on
// the host or on what else the host does.
//
// A lab is made of images that Build makes and keeps in a directory of hostdir.State:
//
//	base-<key>/      a Debian with QEMU, its kernel and modules
//	kernel-<key>/    another kernel that it can run (BuildKernel), with modules
//	emulator-<key>/  the QEMU that runs it, with its firmware
//	peers-<key>/     what this host has to be measured: guest images, guest kernels, runsc
//	set.json         which of them are the lab
//	lock             held by whoever builds
//	tmp/<lease>      builds in progress
//
// A key is the digest of all that goes in. Run opens the files and starts the emulator and then needs
// the directory no more, so a build may replace what a lab is running on. It keeps nothing on disk
// itself.
package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/sandbox"
)

const (
	setName      = "set.json"
	lockName     = "lock"
	tmpName      = "tmp"
	basePrefix   = "base-"
	peersPrefix  = "peers-"
	manifestName = "manifest.json"
	diskName     = "root.erofs"
	vmlinuxName  = "vmlinux"
	modulesName  = "modules"
)

const (
	qemuBinary  = "qemu-system-x86_64"
	qemuPackage = "qemu-system-x86"
)

// Image is a lab that was built. It is what set.json holds.
type Image struct {
	// Base, Peers and Emulator are the names of the directories. Without an Emulator the lab uses the
	// host's QEMU.
	Base     string `json:"base"`
	Peers    string `json:"peers"`
	Emulator string `json:"emulator"`
	// Kernel is the version of the lab's own kernel.
	Kernel string `json:"kernel"`
	// Bytes is the size of all files that Run uses.
	Bytes   int64     `json:"bytes"`
	Created time.Time `json:"created"`

	// kernel is the directory that the kernel comes from; early are its modules that are loaded before there is a root
	// file system, in order, and late those that are loaded with what they depend on from there.
	kernel      string
	early, late []string
	dir         string
}

// manifest is what a base directory says about itself.
type manifest struct {
	Kernel string   `json:"kernel"`
	Early  []string `json:"early"`
}

// Dir is where labs of this host are kept.
func Dir() (string, error) {
	state, err := hostdir.State()
	if err != nil {
		return "", err
	}
	return filepath.Join(state, "lab"), nil
}

// Open finds the lab that was built in dir. An error that wraps sandbox.ErrUnavailable says that
// there is none, or only one of another version of aether.
func Open(dir string) (Image, error) {
	missing := func(detail string) error {
		return &sandbox.Error{Op: "open lab", Err: sandbox.ErrUnavailable, Detail: detail, Remedy: "run `aether lab build`"}
	}
	text, err := os.ReadFile(filepath.Join(dir, setName))
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, missing("no lab has been built in " + dir)
	}
	if err != nil {
		return Image{}, fmt.Errorf("open lab: %w", err)
	}
	i := Image{dir: dir}
	if err := json.Unmarshal(text, &i); err != nil {
		return Image{}, missing(fmt.Sprintf("%s is damaged: %v", setName, err))
	}
	if i.Base != basePrefix+baseKey() {
		return Image{}, missing("the lab was built by another version of aether")
	}
	if i.Emulator != "" && i.Emulator != emulatorPrefix+emulatorKey() {
		return Image{}, missing("the lab was built by another version of aether")
	}
	if !filepath.IsLocal(i.Peers) {
		return Image{}, missing(setName + " is damaged")
	}
	m, err := readManifest(filepath.Join(dir, i.Base))
	if err != nil {
		return Image{}, missing(err.Error())
	}
	i.kernel, i.early, i.late = i.Base, m.Early, lateModules
	return i, nil
}

func readManifest(base string) (manifest, error) {
	var m manifest
	text, err := os.ReadFile(filepath.Join(base, manifestName))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%s: %w", filepath.Join(base, manifestName), err)
	}
	for _, name := range m.Early {
		if name != filepath.Base(name) {
			return m, fmt.Errorf("%s names module %q", filepath.Join(base, manifestName), name)
		}
	}
	return m, nil
}

func writeJSON(name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(text, '\n'), 0o644)
}
