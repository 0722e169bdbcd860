package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

func TestParseVersion(t *testing.T) {
	for said, want := range map[string]int{
		"QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright": 10,
		"QEMU emulator version 7.2.22":                                   7,
		"":                                                               0,
		"QEMU emulator version x":                                        0,
		"QEMU emulator version -1.0":                                     0,
	} {
		if got, err := parseVersion(said); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", said, got, err)
		}
	}
}

func TestMissingLibrary(t *testing.T) {
	err := missingLibrary("qemu-system-x86_64: error while loading shared libraries: libfdt.so.1: cannot open shared object file: No such file or directory")
	var e *sandbox.Error
	if !errors.As(err, &e) || !strings.Contains(e.Detail, "libfdt.so.1,") || !strings.Contains(e.Remedy, qemuPackage) {
		t.Errorf("got %v", err)
	}
	if err := missingLibrary("qemu-system-x86_64: out of memory"); err != nil {
		t.Errorf("another problem: %v", err)
	}
}

// fakeHost puts programs into a PATH of their own: an apt-get that knows the suite but cannot download, and
// a QEMU of the given version, if one is given.
func fakeHost(t *testing.T, qemu string) {
	t.Helper()
	bin := t.TempDir()
	programs := map[string]string{"apt-get": `for a; do [ "$a" = indextargets ] && echo "http://mirror.example/debian bookworm main" && exit 0; done
echo "no such suite" >&2; exit 100`}
	if qemu != "" {
		programs[qemuBinary] = "echo 'QEMU emulator version " + qemu + "'"
	}
	for name, script := range programs {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
}

// Without backports the host's own QEMU will do if it is new enough.
func TestEmulatorWithoutBackports(t *testing.T) {
	ensureHere := func(old Image) (string, []string, error) {
		var phases []string
		name, err := ensureEmulator(context.Background(), t.TempDir(), t.TempDir(), old, func(p string) { phases = append(phases, p) })
		return name, phases, err
	}
	fakeHost(t, "10.1.0")
	name, phases, err := ensureHere(Image{})
	if name != "" || err != nil || len(phases) != 2 {
		t.Errorf("new QEMU: %q, %v after %q", name, err, phases)
	}
	// Once settled, the mirror is left alone.
	if name, phases, err := ensureHere(Image{dir: "x"}); name != "" || err != nil || len(phases) != 0 {
		t.Errorf("again: %q, %v after %q", name, err, phases)
	}
	for _, version := range []string{"7.2.22", ""} {
		fakeHost(t, version)
		_, _, err := ensureHere(Image{})
		var e *sandbox.Error
		if !errors.Is(err, sandbox.ErrUnavailable) || !errors.As(err, &e) || !strings.Contains(e.Remedy, emulatorSuite) || !strings.Contains(e.Detail, "no such suite") {
			t.Errorf("QEMU %q: %v", version, err)
		}
	}
}
