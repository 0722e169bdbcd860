package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/aethervm/aether/internal/debian"
	"github.com/aethervm/aether/sandbox"
)

// The lab has an emulator of its own, since that of Debian 12, QEMU 7.2, lets guests of KVM stop far more often,
// and since even the newer one has to be mended (mendInterrupts).
const (
	emulatorPrefix = "emulator-"
	emulatorSuite  = suite + "-backports"
	firmwareName   = "firmware"
	// minQEMU is the first major version known to work.
	minQEMU = 10
)

// emulatorPackages are unpacked, not installed: the host's own QEMU stays as it is. What they depend on is
// what the host's QEMU depends on too.
var emulatorPackages = []string{"qemu-system-x86", "qemu-system-data", "seabios"}

// firmware is what a machine of machineConfig reads, of the packages' files.
var firmware = []string{
	"usr/share/seabios/bios-256k.bin",
	"usr/share/qemu/linuxboot_dma.bin", "usr/share/qemu/multiboot_dma.bin", "usr/share/qemu/pvh.bin", // for -kernel
	"usr/share/qemu/kvmvapic.bin",
}

// emulatorKey is the digest of how an emulator is made. A change of how changes the first word.
func emulatorKey() string {
	words := []string{"2", emulatorSuite, strings.Join(emulatorPackages, ","), strings.Join(firmware, ",")}
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// emulator is the QEMU of a lab.
type emulator struct {
	binary   string
	firmware string // directory; "" is the binary's own choice
}

// emulator finds the lab's QEMU: the one that was built, or the host's where the build has settled for
// that.
func (i *Image) emulator() (emulator, error) {
	if i.Emulator == "" {
		binary, err := findTool(qemuBinary, qemuPackage)
		return emulator{binary: binary}, err
	}
	dir := filepath.Join(i.dir, i.Emulator)
	return emulator{binary: filepath.Join(dir, qemuBinary), firmware: filepath.Join(dir, firmwareName)}, nil
}

// ensureEmulator makes the emulator's directory in dir, unless it is there, and returns its name: "" if
// there is nothing to make it from and the host's own QEMU is new enough. old is the lab as it is.
func ensureEmulator(ctx context.Context, dir, work string, old Image, phase func(string)) (string, error) {
	name := emulatorPrefix + emulatorKey()
	final := filepath.Join(dir, name)
	if _, err := os.Stat(final); errors.Is(err, fs.ErrNotExist) && old.dir != "" && old.Emulator == "" && hostVersion(ctx) >= minQEMU {
		return "", nil // as the last time: that takes no look at the mirror
	}
	err := ensure(final, filepath.Join(work, "emulator"), func(tmp string) error {
		return makeEmulator(ctx, tmp, work, phase)
	})
	if err == nil || ctx.Err() != nil {
		return name, err
	}
	if hostVersion(ctx) >= minQEMU {
		phase("use this host's own QEMU")
		return "", nil
	}
	var known *sandbox.Error
	if errors.As(err, &known) {
		return "", err
	}
	return "", &sandbox.Error{Op: "lab build", Err: fmt.Errorf("%w: %w", sandbox.ErrUnavailable, err),
		Detail: fmt.Sprintf("QEMU %d or newer cannot be had from Debian %s: %v", minQEMU, emulatorSuite, err),
		Remedy: fmt.Sprintf("use a Debian mirror that has %s, or install QEMU %d on this host", emulatorSuite, minQEMU)}
}

// makeEmulator makes an emulator directory in dir. work is a directory for what is of no use afterwards.
func makeEmulator(ctx context.Context, dir, work string, phase func(string)) error {
	phase("download QEMU")
	unpacked := filepath.Join(work, "qemu")
	if err := os.Mkdir(unpacked, 0o755); err != nil {
		return err
	}
	// The archive knows the one suite, so each package is of that suite or is not found.
	debs, err := debian.Download(ctx, work, emulatorSuite, emulatorPackages...)
	if err != nil {
		return err
	}
	phase("unpack QEMU")
	for _, deb := range debs {
		if err := errors.Join(debian.Unpack(ctx, deb, unpacked), os.Remove(deb)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, firmwareName), 0o755); err != nil {
		return err
	}
	for _, file := range firmware {
		if err := copyFile(filepath.Join(dir, firmwareName, filepath.Base(file)), filepath.Join(unpacked, file)); err != nil {
			return err
		}
	}
	binary := filepath.Join(dir, qemuBinary)
	err = errors.Join(copyFile(binary, filepath.Join(unpacked, "usr/bin", qemuBinary)), os.Chmod(binary, 0o755))
	if err != nil {
		return err
	}
	known, err := mendInterrupts(binary)
	if err != nil {
		return err
	}
	if !known {
		phase("this QEMU is not known: guests of KVM in the lab may get an interrupt twice (docs/LAB.md)")
	}
	if _, err := qemuVersion(ctx, binary); err != nil {
		return err
	}
	return os.RemoveAll(unpacked)
}

// hostVersion is the major version of the host's QEMU, 0 if there is none that runs.
func hostVersion(ctx context.Context) int {
	binary, err := exec.LookPath(qemuBinary)
	if err != nil {
		return 0
	}
	version, err := qemuVersion(ctx, binary)
	if err != nil {
		return 0
	}
	return version
}

// qemuVersion is the major version of a QEMU. An error that wraps sandbox.ErrUnavailable says that it
// needs a library that this host lacks.
func qemuVersion(ctx context.Context, binary string) (int, error) {
	said, err := run(ctx, binary, "--version")
	if err != nil {
		if lacks := missingLibrary(err.Error()); lacks != nil {
			return 0, lacks
		}
		return 0, err
	}
	return parseVersion(said)
}

// parseVersion reads the first line of qemu --version: "QEMU emulator version 10.0.2 (Debian ...)".
func parseVersion(said string) (major int, err error) {
	if _, err := fmt.Sscanf(said, "QEMU emulator version %d.", &major); err != nil || major < 1 {
		return 0, fmt.Errorf("%s --version says %.80q", qemuBinary, said)
	}
	return major, nil
}

// missingLibrary makes an error with its remedy of what the dynamic loader says, or nil.
func missingLibrary(said string) error {
	_, rest, ok := strings.Cut(said, "error while loading shared libraries: ")
	if !ok {
		return nil
	}
	library, _, _ := strings.Cut(rest, ":")
	return &sandbox.Error{Op: "lab", Err: sandbox.ErrUnavailable, Detail: "the lab's QEMU needs " + library + ", which this host lacks",
		Remedy: "run `apt-get install " + qemuPackage + "`: this host's QEMU needs the same libraries"}
}
