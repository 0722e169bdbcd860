package aethervm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// tempTemplates has templates be kept in a directory of the test's, with images and kernels where they are.
func tempTemplates(t *testing.T) {
	t.Helper()
	state, err := hostdir.State()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"images", "kernels"} {
		if err := os.Symlink(filepath.Join(state, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("AETHER_STATE", dir)
}

// A template is made, copied by a driver that has not made it, and removed; its copies live on.
func TestTemplate(t *testing.T) {
	maker := open(t)
	img := testenv.Image(t)
	tempTemplates(t)
	spec := sandbox.TemplateSpec{Name: "python", Spec: sandbox.Spec{Image: img, VCPUs: vcpus(t), Network: sandbox.NetworkOutbound}, WarmUp: []sandbox.Cmd{
		{Args: []string{"sh", "-c", clocks}},
		{Args: []string{"sh", "-c", "cat >/tmp/living.py"}, Stdin: strings.NewReader(living)},
		{Args: []string{"sh", "-c", "python3 /tmp/living.py >/dev/null 2>&1 </dev/null & until [ -s /tmp/living ]; do sleep 0.1; done"}},
	}}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute) // each byte of it goes through a hash
	defer cancel()
	made, err := maker.CreateTemplate(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes on disk after %v", made.Bytes, time.Since(begin))
	if n := len(cells(t)); n != 0 {
		t.Errorf("%d cells are left", n)
	}
	d := open(t)
	list, err := d.Templates(t.Context())
	if err != nil || len(list) != 1 || list[0].Digest != made.Digest || list[0].Name != "python" || len(list[0].WarmUp) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	_, _, f, err := (&templates{dir: filepath.Join(os.Getenv("AETHER_STATE"), "templates", System)}).open(t.Context(), "test", "python")
	if err != nil {
		t.Fatal(err)
	}
	writes := slices.IndexFunc(f.Prefetch, func(r snapshot.Run) bool { return r.Write })
	if err := f.Close(); err != nil || len(f.Prefetch) < 10 || writes < 0 {
		t.Errorf("%d runs are to be mapped ahead, %v", len(f.Prefetch), err)
	}
	seen := map[string]bool{}
	check := func(copies []sandbox.Sandbox) {
		t.Helper()
		for _, c := range copies {
			alive(t, c)
			checkClocks(t, c)
			for _, n := range strings.Fields(sh(t, c, who+"; cat /sys/class/net/eth0/address")) {
				if seen[n] {
					t.Errorf("%s occurs twice", n)
				}
				seen[n] = true
			}
		}
	}
	begin = time.Now()
	copies, err := d.ForkTemplate(bounded(t), "python", 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("3 copies after %v", time.Since(begin))
	check(copies)
	if _, err := d.ForkTemplate(bounded(t), "other", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a name that there is not: %v", err)
	}
	spec.WarmUp = []sandbox.Cmd{{Args: []string{"sh", "-c", "echo it is broken >&2; exit 3"}}}
	if _, err := maker.CreateTemplate(bounded(t), spec); !errors.Is(err, sandbox.ErrInvalid) || !strings.Contains(err.Error(), "it is broken") {
		t.Errorf("a warm-up that fails: %v", err)
	}
	if err := d.RemoveTemplate(t.Context(), "python"); err != nil {
		t.Fatal(err)
	}
	again, err := copies[0].(*Sandbox).Fork(bounded(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	check(again)
	if err := closeSandboxes(append(copies, again...)); err != nil {
		t.Error(err)
	}
	store, err := openTemplates()
	if err != nil {
		t.Fatal(err)
	}
	if left := inStore(t, store); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

// inStore is what a store has beside its lock and names.
func inStore(t *testing.T, s *templates) (list []string) {
	t.Helper()
	list, err := s.entries()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// put publishes a template with nothing in it.
func put(t *testing.T, s *templates, name, digest string) {
	t.Helper()
	m, err := s.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = m.publish(t.Context(), sandbox.Template{System: System, Name: name, Digest: "sha256:" + digest, Spec: sandbox.Spec{Image: sandbox.Image{Rootfs: "/x"}}})
	if err := errors.Join(err, m.abandon()); err != nil {
		t.Fatal(err)
	}
}

func TestTemplateStore(t *testing.T) {
	t.Setenv("AETHER_STATE", t.TempDir())
	s, err := openTemplates()
	if err != nil {
		t.Fatal(err)
	}
	names := func() (text string) {
		t.Helper()
		list, err := s.list(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			text += e.Name + "=" + e.Digest + " "
		}
		return text
	}
	put(t, s, "b", "1")
	put(t, s, "a", "2")
	put(t, s, "c", "1") // the same content
	if got := names(); got != "a=sha256:2 b=sha256:1 c=sha256:1 " {
		t.Errorf("%s", got)
	}
	put(t, s, "a", "3") // in place of the older one
	if got, left := names(), inStore(t, s); got != "a=sha256:3 b=sha256:1 c=sha256:1 " || len(left) != 2 {
		t.Errorf("%s, %q", got, left)
	}
	if err := s.remove(t.Context(), "remove", "b"); err != nil {
		t.Error(err)
	}
	if got, left := names(), inStore(t, s); got != "a=sha256:3 c=sha256:1 " || len(left) != 2 {
		t.Errorf("%s, %q", got, left)
	}
	if err := s.remove(t.Context(), "remove", "b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed again: %v", err)
	}
	// What says that it is another one is none.
	path := filepath.Join(s.dir, "sha256-1", templateName)
	for _, text := range []string{"", "{", `{"system":"qemu","digest":"sha256:1"}`, `{"system":"aethervm","digest":"sha256:2"}`, `{"system":"aethervm","digest":"sha256:1"}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.find("find", "c"); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if got := names(); got != "a=sha256:3 " {
		t.Errorf("%s", got)
	}
	if err := errors.Join(s.remove(t.Context(), "remove", "c"), s.remove(t.Context(), "remove", "a")); err != nil {
		t.Error(err)
	}
	if left := inStore(t, s); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

// What a maker that was killed has left goes with the next one; that of a living one stays.
func TestTemplateMakerKilled(t *testing.T) {
	t.Setenv("AETHER_STATE", t.TempDir())
	s, err := openTemplates()
	if err != nil {
		t.Fatal(err)
	}
	killed, err := s.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := killed.alive.Close(); err != nil { // as the kernel does
		t.Fatal(err)
	}
	living, err := s.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if left := inStore(t, s); len(left) != 2 {
		t.Errorf("there are %q", left)
	}
	for range 2 {
		if err := errors.Join(living.abandon(), other.abandon()); err != nil {
			t.Error(err)
		}
	}
	if left := inStore(t, s); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

func TestTemplateNames(t *testing.T) {
	for _, name := range []string{"python", "a", "3.12", "py-3_12"} {
		if err := checkTemplateName("test", name); err != nil {
			t.Error(err)
		}
	}
	d, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, name := range []string{"", ".", "..", "a/b", "../x", "A", "-x", ".x", "x y", "x\n", strings.Repeat("x", 65)} {
		if err := d.RemoveTemplate(t.Context(), name); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := d.ForkTemplate(t.Context(), name, 1); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := d.CreateTemplate(t.Context(), sandbox.TemplateSpec{Name: name}); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
	t.Setenv("AETHER_STATE", t.TempDir())
	for _, n := range []int{0, -1, MaxForks + 1} {
		if _, err := d.ForkTemplate(t.Context(), "x", n); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("%d copies: %v", n, err)
		}
	}
}
