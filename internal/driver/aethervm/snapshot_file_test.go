package aethervm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/sandbox"
)

// machineFile writes a machine of one page of memory to a directory and returns its digest.
func machineFile(t *testing.T, dir, content string) string {
	t.Helper()
	w, err := snapshot.Create(filepath.Join(dir, machineName))
	if err != nil {
		t.Fatal(err)
	}
	page := bytes.Repeat([]byte(content), snapshot.PageSize/len(content))
	if _, err := w.WriteMemory(t.Context(), []snapshot.Extent{{Size: snapshot.PageSize, Source: bytes.NewReader(page)}}); err != nil {
		t.Fatal(err)
	}
	digest, err := w.Finish(snapshot.About{MemoryMiB: 1}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return snapshot.Digest(digest)
}

// opened opens the machine of a directory.
func opened(t *testing.T, dir string) *snapshot.File {
	t.Helper()
	f, err := snapshot.Open(filepath.Join(dir, machineName))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// damage changes a byte of a machine's memory.
func damage(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, machineName)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // longer than the kernel's clock of files takes to go on
	_, err = f.WriteAt([]byte("y"), snapshot.PageSize+7)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// A file that is known to be whole is read no more, until somebody writes to it.
func TestVerifyOnce(t *testing.T) {
	dir := t.TempDir()
	digest := machineFile(t, dir, "x")
	f := opened(t, dir)
	if err := verifyOnce(t.Context(), dir, stampName, f); err != nil {
		t.Fatal(err)
	}
	known := readStamp(dir, stampName)
	if known == (stamp{}) || known.Digest != digest {
		t.Errorf("known: %+v", known)
	}
	damage(t, dir)
	if err := verifyOnce(t.Context(), dir, stampName, f); !errors.Is(err, snapshot.ErrChecksum) {
		t.Errorf("a file that was written to: %v", err)
	}
	if after := readStamp(dir, stampName); after != known {
		t.Errorf("it is known to be whole: %+v", after)
	}
	// Damage that was there when it was found whole is not looked for.
	s, err := stampOf(f.File(), digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.write(dir, stampName); err != nil {
		t.Fatal(err)
	}
	if err := verifyOnce(t.Context(), dir, stampName, f); err != nil {
		t.Errorf("it is read again: %v", err)
	}
	if left := names(t, dir); left != "machine machine.stamp" {
		t.Errorf("there are %s", left)
	}
}

// names lists a directory.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return strings.Join(list, " ")
}

// What somebody has laid in place of a stamp is neither waited for nor written through nor read without end.
func TestHostileStamp(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	for name, lay := range map[string]func(path string) error{
		"link":          func(path string) error { return os.Symlink(victim, path) },
		"link to zeros": func(path string) error { return os.Symlink("/dev/zero", path) },
		"fifo":          func(path string) error { return unix.Mkfifo(path, 0o600) },
		"directory":     func(path string) error { return os.Mkdir(path, 0o700) },
		"a large file": func(path string) error {
			return errors.Join(os.WriteFile(path, []byte("{"), 0o600), os.Truncate(path, 1<<40))
		},
		"something else": func(path string) error { return os.WriteFile(path, []byte("[1]"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			machineFile(t, dir, "x")
			f := opened(t, dir)
			if err := lay(filepath.Join(dir, stampName)); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- verifyOnce(t.Context(), dir, stampName, f) }()
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it hangs")
			}
			if b, err := os.ReadFile(victim); err != nil || string(b) != "untouched" {
				t.Errorf("the victim: %q, %v", b, err)
			}
			if got := readStamp(dir, stampName); (got == stamp{}) != (name == "directory") {
				t.Errorf("the stamp: %+v", got)
			}
			if left := names(t, dir); left != "machine machine.stamp" {
				t.Errorf("there are %s", left)
			}
		})
	}
}

// What a file says that its machine is must be what the caller takes it for, to the MiB.
func TestMatches(t *testing.T) {
	spec := sandbox.Spec{VCPUs: 2, MemoryMiB: 256, Network: sandbox.NetworkOutbound}
	good := snapshot.About{VCPUs: 2, MemoryMiB: uint32(ramMiB(256)), Network: true}
	if err := matches(good, spec); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*snapshot.About){
		"more memory":     func(a *snapshot.About) { a.MemoryMiB++ },
		"less memory":     func(a *snapshot.About) { a.MemoryMiB-- },
		"more processors": func(a *snapshot.About) { a.VCPUs++ },
		"no network":      func(a *snapshot.About) { a.Network = false },
	} {
		bad := good
		change(&bad)
		if err := matches(bad, spec); !errors.Is(err, snapshot.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A directory that depends on where the process is, is refused.
func TestSnapshotDirectory(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	machineFile(t, dir, "x")
	d, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, ref := range []string{"", ".", "x"} {
		snap := sandbox.Snapshot{System: System, Kind: sandbox.SnapshotFull, Ref: ref}
		if err := d.RemoveSnapshot(t.Context(), snap); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("remove %q: %v", ref, err)
		}
		if _, err := d.Restore(t.Context(), snap); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("restore %q: %v", ref, err)
		}
		if _, err := (&Sandbox{}).Snapshot(t.Context(), ref); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("to %q: %v", ref, err)
		}
	}
	if left := names(t, dir); left != machineName {
		t.Errorf("left: %s", left)
	}
}

// Whoever gives up is told so, and what could not be tidied up as well.
func TestKeptErrorGivenUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range []error{errors.New("cannot remove"), errors.Join(fmt.Errorf("verify: %w", context.Canceled), errors.New("cannot remove"))} {
		if got := keptError(ctx, "test", err); !errors.Is(got, context.Canceled) || !strings.Contains(got.Error(), "cannot remove") {
			t.Errorf("%v", got)
		}
	}
}
