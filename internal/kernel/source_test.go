package kernel

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/boot/boottest"
	"github.com/aethervm/aether/sandbox"
)

func TestObtainFile(t *testing.T) {
	root, source := t.TempDir(), t.TempDir()
	image := install(t, source, "6.1.0-x", nil)
	vmlinux := filepath.Join(source, "vmlinux")
	put(t, vmlinux, boottest.VmlinuxOf("6.2.0-y"))
	modules := filepath.Join(source, "lib/modules/6.1.0-x")

	var phases []string
	k, err := Obtain(t.Context(), root, image, "", func(phase string) { phases = append(phases, phase) })
	if err != nil || k.Version != "6.1.0-x" || len(phases) != 1 {
		t.Errorf("bzImage: %+v, %v, said %q", k, err, phases)
	}
	if k, err := Obtain(t.Context(), root, vmlinux, modules, nil); err != nil || k.Version != "6.2.0-y" {
		t.Errorf("vmlinux: %+v, %v", k, err)
	}
	// Beside its modules, as some distributions have it.
	beside := filepath.Join(source, "usr/lib/modules/6.3.0-z")
	put(t, filepath.Join(beside, "vmlinuz"), boottest.BzImage("6.3.0-z", boottest.Zstd(boottest.Vmlinux())))
	if err := os.CopyFS(beside, os.DirFS(modules)); err != nil {
		t.Fatal(err)
	}
	if k, err := Obtain(t.Context(), root, filepath.Join(beside, "vmlinuz"), "", nil); err != nil || k.Version != "6.3.0-z" {
		t.Errorf("beside its modules: %+v, %v", k, err)
	}
}

func TestObtainRefuses(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	lonely := filepath.Join(dir, "boot/vmlinuz")
	put(t, lonely, boottest.BzImage("6.66.0-lonely", nil))
	text := filepath.Join(dir, "text")
	put(t, text, []byte("no kernel"))
	for name, c := range map[string]struct {
		source, modules string
		want            error
	}{
		"no file":            {filepath.Join(dir, "none"), "", fs.ErrNotExist},
		"no kernel":          {text, "", ErrFormat},
		"a directory":        {dir, "", ErrFormat},
		"no modules":         {lonely, "", fs.ErrNotExist},
		"other modules":      {lonely, dir, fs.ErrNotExist},
		"no suite":           {"debian:", "", sandbox.ErrInvalid},
		"an odd suite":       {"debian:../x", "", sandbox.ErrInvalid},
		"an option":          {"debian:-x", "", sandbox.ErrInvalid},
		"modules of a suite": {"debian:bookworm", dir, sandbox.ErrInvalid},
		"no package":         {filepath.Join(dir, "x.deb"), "", fs.ErrNotExist},
	} {
		k, err := Obtain(t.Context(), root, c.source, c.modules, nil)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v", name, k, err)
		}
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestHostImage(t *testing.T) {
	root := t.TempDir()
	_, _, err := hostImage(root)
	var e *sandbox.Error
	if !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &e) || !strings.Contains(e.Remedy, "aether kernel import debian:") {
		t.Fatalf("a host without a kernel: %v", err)
	}
	for _, place := range []string{"usr/lib/modules/%/vmlinuz", "boot/vmlinuz-%"} { // the better one last
		_, release, _ := strings.Cut(e.Detail, "boot/vmlinuz-")
		release, _, _ = strings.Cut(release, " nor ")
		place = filepath.Join(root, strings.ReplaceAll(place, "%", release))
		put(t, place, nil)
		if got, r, err := hostImage(root); got != place || r != release || err != nil {
			t.Errorf("found %q of %q, %v; want %q of %q", got, r, err, place, release)
		}
	}
}

func TestImportPackage(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("no dpkg-deb to make a package with")
	}
	dir, root := t.TempDir(), filepath.Join(t.TempDir(), "kernels")
	tree := filepath.Join(dir, "tree")
	install(t, tree, "6.1.0-x", map[string][]byte{
		"arch/x86/kvm/kvm-amd.ko": module(t, "name=kvm_amd\x00depends=kvm\x00"), "arch/x86/kvm/kvm.ko": module(t, "name=kvm\x00"),
	})
	put(t, filepath.Join(tree, "DEBIAN/control"), []byte("Package: linux-image-6.1.0-x\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody\nDescription: test\n"))
	deb := filepath.Join(dir, "linux.deb")
	pack := func() {
		t.Helper()
		if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-b", tree, deb).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	pack()
	if k, err := Obtain(t.Context(), root, deb, "", nil); err != nil || k.Version != "6.1.0-x" {
		t.Errorf("imported %+v, %v", k, err)
	}
	k, err := ImportPackage(t.Context(), t.TempDir(), deb, "kvm_amd", "not_there")
	if err != nil {
		t.Fatal(err)
	}
	if more := k.Load("kvm_amd"); len(more) != 2 || more[0].Name != "kvm" || more[1].Name != "kvm_amd" {
		t.Errorf("with more modules: %+v", more)
	}
	if err := os.RemoveAll(filepath.Join(tree, "boot")); err != nil {
		t.Fatal(err)
	}
	pack()
	if k, err := Obtain(t.Context(), root, deb, "", nil); !errors.Is(err, ErrFormat) {
		t.Errorf("a package without a kernel: %+v, %v", k, err)
	}
	put(t, deb, []byte("!<arch>\nbroken"))
	if k, err := Obtain(t.Context(), root, deb, "", nil); err == nil {
		t.Errorf("a broken package: %+v", k)
	}
}

func TestDefaultAndEnsure(t *testing.T) {
	root, source := t.TempDir(), t.TempDir()
	for _, v := range []string{"6.1.0-a", "6.12.0-b"} {
		if _, err := Obtain(t.Context(), root, install(t, source, v, nil), "", nil); err != nil {
			t.Fatal(err)
		}
	}
	third := install(t, source, "5.0.0-c", nil)
	for _, c := range []struct{ env, system, now, ensured string }{
		{"", aetherVM, "6.12.0-b", "6.12.0-b"},
		{"", qemu, "6.1.0-a", "6.1.0-a"}, // known to be better there
		{"6.1", aetherVM, "6.1.0-a", "6.1.0-a"},
		{"6.12", qemu, "6.12.0-b", "6.12.0-b"},
		{third, qemu, "", "5.0.0-c"},
		{"6.9", qemu, "", ""}, // asked for and not there: no other one is taken, or fetched
	} {
		t.Setenv(EnvKernel, c.env)
		if k, err := Default(root, c.system); k.Version != c.now || (c.now == "") != errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s=%s: %q, %v; want %q", EnvKernel, c.env, k.Version, err, c.now)
		}
		if k, err := Ensure(t.Context(), root, c.system); k.Version != c.ensured || (err == nil) != (c.ensured != "") {
			t.Errorf("%s=%s: ensured %q, %v; want %q", EnvKernel, c.env, k.Version, err, c.ensured)
		}
	}
	t.Setenv(EnvKernel, "")
	if err := Remove(root, "6.1.0-a"); err != nil {
		t.Fatal(err)
	}
	if k, err := Default(root, qemu); err != nil || k.Version != "6.12.0-b" {
		t.Errorf("without the better one: %q, %v", k.Version, err)
	}
}
