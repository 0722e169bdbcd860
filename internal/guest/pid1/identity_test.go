package pid1

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSetMachineID(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "machine-id")
	elsewhere := filepath.Join(dir, "elsewhere")
	if err := os.WriteFile(elsewhere, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, name); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := setMachineID(name, [16]byte{0xab, 15: 1}); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != "ab000000000000000000000000000001\n" {
			t.Errorf("%q, %v", got, err)
		}
	}
	if got, err := os.ReadFile(elsewhere); err != nil || string(got) != "kept" {
		t.Errorf("what a link led to: %q, %v", got, err)
	}
	if err := setMachineID(filepath.Join(dir, "no", "machine-id"), [16]byte{1}); err != nil {
		t.Errorf("an image without the directory: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "taken", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := setMachineID(filepath.Join(dir, "taken"), [16]byte{1}); err == nil {
		t.Error("a directory was replaced")
	}
}
