package lab

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/aethervm/aether/internal/initramfs"
)

func TestDebianSources(t *testing.T) {
	const targets = `http://mirror.example/debian/ bookworm main
http://mirror.example/debian/ bookworm main
http://mirror.example/debian/ bookworm contrib
http://mirror.example/debian-security/ bookworm-security main
https://deb.example/node nodistro main
`
	const want = "deb [signed-by=" + keyring + "] http://mirror.example/debian/ bookworm main\n" +
		"deb [signed-by=" + keyring + "] http://mirror.example/debian-security/ bookworm-security main\n"
	if got := debianSources(targets); got != want {
		t.Errorf("got\n%s", got)
	}
	if got := debianSources("http://mirror.example/debian/ trixie main\n"); got != "" {
		t.Errorf("of another suite: %q", got)
	}
}

func TestInsmodPaths(t *testing.T) {
	got := insmodPaths("builtin acpi\ninsmod /lib/modules/6.1/kernel/a.ko \ninsmod /lib/b.ko x=1\n")
	if want := []string{"/lib/modules/6.1/kernel/a.ko", "/lib/b.ko"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestParseFile(t *testing.T) {
	dir := t.TempDir()
	colon := filepath.Join(dir, "a:b")
	if err := os.WriteFile(colon, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"x/tool": "/lab/tool", "x/tool:": "/lab/tool", "x/tool:bin/t": "/lab/bin/t", "x/tool:/etc/": "/etc/tool",
		"x/tool:/etc/t": "/etc/t", "x/tool:../../t": "/t", colon: "/lab/a:b", colon + ":/c": "/c",
	} {
		f, err := ParseFile(in)
		if err != nil || f.target() != want {
			t.Errorf("%s: %+v leads to %s, %v; want %s", in, f, f.target(), err, want)
		}
	}
	if _, err := ParseFile(":/x"); err == nil {
		t.Error("no host path: accepted")
	}
}

func TestAddFile(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "sub/f"), nil, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("sub/f", filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	files, err := addFile(nil, File{Host: tree, Guest: "/opt/x"})
	if err != nil {
		t.Fatal(err)
	}
	want := []initramfs.File{
		{Name: "lab/files/opt/x/link", Mode: 0o750, Source: filepath.Join(tree, "link")},
		{Name: "lab/files/opt/x/sub/f", Mode: 0o750, Source: filepath.Join(tree, "sub/f")},
	}
	if len(files) != 2 || files[0].Name != want[0].Name || files[1].Name != want[1].Name || files[0].Mode != 0o750 {
		t.Errorf("got %+v", files)
	}
	if err := os.Symlink("/dev/null", filepath.Join(tree, "device")); err != nil {
		t.Fatal(err)
	}
	if _, err := addFile(nil, File{Host: tree}); err == nil {
		t.Error("a device: accepted")
	}
	if _, err := addFile(nil, File{Host: filepath.Join(dir, "missing")}); err == nil {
		t.Error("a missing file: accepted")
	}
}
