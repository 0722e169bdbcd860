package kernel

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestChoose(t *testing.T) {
	root := t.TempDir()
	for _, v := range []string{"6.1.0-50-cloud-amd64", "6.12.95+deb12-cloud-amd64", "6.1.0-9-cloud-amd64"} {
		if err := os.Mkdir(filepath.Join(root, v), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, v, manifestName), []byte(`{"version":"`+v+`"}`), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"": "6.12.95+deb12-cloud-amd64", "6": "6.12.95+deb12-cloud-amd64", "6.1": "6.1.0-50-cloud-amd64",
		"6.12": "6.12.95+deb12-cloud-amd64", "6.1.0-9": "6.1.0-9-cloud-amd64",
		"6.1.0-9-cloud-amd64": "6.1.0-9-cloud-amd64",
	} {
		if k, err := Choose(root, name); err != nil || k.Version != want {
			t.Errorf("Choose(%q) = %q, %v; want %q", name, k.Version, err, want)
		}
	}
	for _, name := range []string{"5", "6.", "6.1.0-5", "../x"} {
		if k, err := Choose(root, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Choose(%q) = %q, %v; want ErrNotExist", name, k.Version, err)
		}
	}
	if _, err := Choose(filepath.Join(root, "none"), ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a store: %v", err)
	}
}
