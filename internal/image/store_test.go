package image_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// sample is a small tree in canonical order with one of everything.
func sample() []tar.Header {
	long := file(strings.Repeat("long/", 30)+"name", "far down")
	tool := file("bin/tool", "#!/bin/sh\n")
	tool.Mode = 0o4755
	var parents []tar.Header
	for i := range 30 {
		parents = append(parents, dir(strings.TrimSuffix(strings.Repeat("long/", i+1), "/"), 0o755))
	}
	h := []tar.Header{dir(".", 0o755), dir("bin", 0o755), tool, hardlink("bin/tool2", "bin/tool"), symlink("bin/tool3", "/bin/tool"),
		dir("empty", 0o1777)}
	return append(append(h, parents...), long, file("zu\u0308rich", "umlaut"))
}

func TestSameTreeSameDigest(t *testing.T) {
	plain := archive(t, sample()...)
	s := newStore(t)
	want := build(t, s, "plain", save(t, "plain.tar", plain))

	var gz, zst, xzb bytes.Buffer
	gw := gzip.NewWriter(&gz)
	zw, err := zstd.NewWriter(&zst)
	if err != nil {
		t.Fatal(err)
	}
	xw, err := xz.NewWriter(&xzb)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []interface {
		Write([]byte) (int, error)
		Close() error
	}{gw, zw, xw} {
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	img, err := s.Resolve("plain")
	if err != nil {
		t.Fatal(err)
	}
	var canonical bytes.Buffer
	if err := image.Tar(t.Context(), img, &canonical); err != nil {
		t.Fatal(err)
	}
	if sum := fmt.Sprintf("sha256:%x", sha256.Sum256(canonical.Bytes())); sum != want.Digest {
		t.Errorf("Tar gives %s, the digest is %s", sum, want.Digest)
	}
	// The same files in another order, with the directories last or left to be implied.
	shuffled := []tar.Header{dir(".", 0o755)}
	for _, h := range sample() {
		if h.Typeflag != tar.TypeDir {
			shuffled = append(shuffled, h)
		}
	}
	for _, h := range sample() {
		if h.Typeflag == tar.TypeDir {
			shuffled = append(shuffled, h)
		}
	}
	for name, source := range map[string]string{
		"gzip":      save(t, "x.tar.gz", gz.Bytes()),
		"zstd":      save(t, "x.tar.zst", zst.Bytes()),
		"xz":        save(t, "x.tar.xz", xzb.Bytes()),
		"canonical": save(t, "c.tar", canonical.Bytes()),
		"directory": img.Rootfs,
		"shuffled":  save(t, "s.tar", archive(t, shuffled...)),
	} {
		other := newStore(t)
		if got := build(t, other, name, source); got.Digest != want.Digest {
			t.Errorf("%s: digest %s, want %s", name, got.Digest, want.Digest)
		}
		wantNoRest(t, other)
	}
	for what, change := range map[string]func(h *tar.Header){
		"mode":    func(h *tar.Header) { h.Mode = 0o755 },
		"time":    func(h *tar.Header) { h.ModTime = mtime.Add(1e9) },
		"content": func(h *tar.Header) { h.Uname = "#!/bin/SH\n" },
		"name":    func(h *tar.Header) { h.Name = "bin/other" },
	} {
		entries := sample()[:3]
		base := build(t, s, "base", save(t, "x.tar", archive(t, entries...)))
		change(&entries[2])
		if got := build(t, s, "changed", save(t, "x.tar", archive(t, entries...))); got.Digest == base.Digest {
			t.Errorf("another %s has the same digest", what)
		}
	}
}

func TestMetadataIsKept(t *testing.T) {
	testenv.Root(t)
	tool := file("tool", "x")
	tool.Mode, tool.Uid, tool.Gid = 0o6751, 1000, 1001
	// Version 2 of the attribute, effective, CAP_NET_RAW.
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	tool.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": capability}
	link := symlink("link", "tool")
	link.Uid = 7
	s := newStore(t)
	e := build(t, s, "x", save(t, "x.tar", archive(t, tool, link, dir("d", 0o1770))))
	img, err := s.Resolve("x")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"tool": "106751 1000:1001", "link": "120777 7:0", "d": "41770 0:0", ".": "40755 0:0",
	} {
		info, err := os.Lstat(filepath.Join(img.Rootfs, name))
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		if got := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
		if name != "." && !info.ModTime().Equal(mtime) {
			t.Errorf("%s is of %s, want %s", name, info.ModTime(), mtime)
		}
	}
	var attr [64]byte
	n, err := unix.Getxattr(filepath.Join(img.Rootfs, "tool"), "security.capability", attr[:])
	if err != nil || string(attr[:n]) != capability {
		// Some file systems have no such attributes; then the loss must be on record.
		if !slices.Contains(e.Notes, "1 file capabilities not kept") {
			t.Errorf("capability is %q, %v; notes %q", attr[:max(n, 0)], err, e.Notes)
		}
	}
	// A program of the guest that is privileged must not be within reach of users of the host.
	info, err := os.Stat(filepath.Dir(img.Rootfs))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory above the tree: %v, %v; want mode 0700", info.Mode(), err)
	}
	for _, public := range []string{s.Dir(), filepath.Dir(img.Cache), img.Cache} {
		if info, err := os.Stat(public); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v; want mode 0755", public, err)
		}
	}
}

func TestNames(t *testing.T) {
	s := newStore(t)
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Fatalf("List of a store that is not there = %v, %v", list, err)
	}
	_, err := s.Resolve(image.DefaultName)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "make image") {
		t.Errorf("Resolve: %v; want the remedy", err)
	}
	a := save(t, "a.tar", archive(t, file("a", "a")))
	b := save(t, "b.tar", archive(t, file("b", "b")))
	ea := build(t, s, "one", a)
	if again := build(t, s, "two", a); again.Digest != ea.Digest || !slices.Equal(again.Names, []string{"one", "two"}) {
		t.Errorf("the same source again: %+v", again)
	}
	eb := build(t, s, "one", b) // takes the name
	if list, err := s.List(); err != nil || len(list) != 2 || list[0].Names[0] != "one" || list[0].Digest != eb.Digest ||
		list[1].Names[0] != "two" || list[1].Source != a || list[1].Bytes <= 0 || list[1].Created.IsZero() {
		t.Errorf("List = %+v, %v", list, err)
	}
	for _, ref := range []string{"two", ea.Digest, ea.Digest[:15]} {
		if img, err := s.Resolve(ref); err != nil || img.Digest != ea.Digest {
			t.Errorf("Resolve(%s) = %v, %v", ref, img, err)
		}
	}
	for _, ref := range []string{"three", ea.Digest[:12], "sha256:" + strings.Repeat("0", 64)} {
		if _, err := s.Resolve(ref); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "one, two") {
			t.Errorf("Resolve(%s): %v; want not found, and what there is", ref, err)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "../one", "sha256", "-x", "a b", strings.Repeat("x", 129)} {
		if _, err := s.Build(t.Context(), name, a, nil); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("Build(%q): %v", name, err)
		}
		if err := s.Remove(t.Context(), name); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("Remove(%q): %v", name, err)
		}
	}
	for _, source := range []string{"", "/no/such/file", "./no-such-file"} {
		if _, err := s.Build(t.Context(), "x", source, nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Build from %q: %v", source, err)
		}
	}
	if _, err := s.Build(t.Context(), "x", filepath.Dir(s.Dir()), nil); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("Build from a directory that holds the store: %v", err)
	}
	wantNoRest(t, s)
}

func TestRemove(t *testing.T) {
	s := newStore(t)
	a := save(t, "a.tar", archive(t, file("a", "a")))
	for _, name := range []string{"one", "two"} {
		build(t, s, name, a)
	}
	img, err := s.Resolve("two")
	if err != nil {
		t.Fatal(err)
	}
	hold, err := image.Hold(img)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), "one"); err != nil { // only a name
		t.Error(err)
	}
	for _, ref := range []string{"two", img.Digest} {
		if err := s.Remove(t.Context(), ref); !errors.Is(err, image.ErrInUse) {
			t.Errorf("Remove of an image in use: %v", err)
		}
	}
	if _, err := s.Resolve("two"); err != nil {
		t.Errorf("after a refused removal: %v", err)
	}
	if err := hold.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), img.Digest); err != nil {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), "two"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Remove again: %v", err)
	}
	if _, err := image.Hold(img); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Hold of a removed image: %v", err)
	}
	wantEmpty(t, s)
}
