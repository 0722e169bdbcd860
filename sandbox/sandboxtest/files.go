package sandboxtest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

func (s *suite) testFiles(t *testing.T) {
	s.with(t, "RoundTrip", func(t *testing.T, b *box) {
		ctx := t.Context()
		for name, content := range map[string]string{
			"/tmp/text":          "hello\n",
			"/tmp/empty":         "",
			"/tmp/binary":        "\x00\xff\n\r\x00",
			"/tmp/with space 'q": "odd name",
			"/tmp/ünïcode":       "☃",
		} {
			b.write(t, name, content)
			if got := b.read(t, name); got != content {
				t.Errorf("%s: read %q, wrote %q", name, got, content)
			}
			info, err := b.Stat(ctx, name)
			if err != nil || info.Size != int64(len(content)) || info.Name != filepath.Base(name) || !info.Mode.IsRegular() {
				t.Errorf("stat %s: %+v, %v", name, info, err)
			}
			if age := time.Since(info.ModTime); age > time.Hour || age < -time.Hour {
				t.Errorf("stat %s: written %v ago", name, age)
			}
		}
		if err := b.WriteFile(ctx, "/tmp/script", strings.NewReader("#!/bin/sh\necho ran\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if got := b.must(t, "/tmp/script"); got != "ran" {
			t.Errorf("script printed %q", got)
		}
		b.write(t, "/tmp/text", "shorter")
		if got := b.read(t, "/tmp/text"); got != "shorter" {
			t.Errorf("after overwriting: %q", got)
		}
		if got := b.must(t, "cat", "/tmp/text"); got != "shorter" {
			t.Errorf("a program reads %q", got)
		}
	})
	s.with(t, "Large", func(t *testing.T, b *box) {
		const size = 16 << 20
		want, got := sha256.New(), sha256.New()
		if err := b.WriteFile(t.Context(), "/tmp/large", io.TeeReader(patternReader(size), want), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := b.ReadFile(t.Context(), "/tmp/large", got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want.Sum(nil), got.Sum(nil)) {
			t.Error("what was read differs from what was written")
		}
	})
	s.with(t, "Directory", func(t *testing.T, b *box) {
		ctx := t.Context()
		b.sh(t, "mkdir -p /tmp/d/sub && ln -s /etc/passwd /tmp/d/link && ln -s nowhere /tmp/d/dangling && echo x > /tmp/d/file && chmod 640 /tmp/d/file && mkfifo /tmp/d/pipe")
		list, err := b.ReadDir(ctx, "/tmp/d")
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		byName := map[string]sandbox.FileInfo{}
		for _, info := range list {
			names = append(names, info.Name)
			byName[info.Name] = info
		}
		if want := []string{"dangling", "file", "link", "pipe", "sub"}; !slices.Equal(names, want) {
			t.Fatalf("listed %q, want %q", names, want)
		}
		if f := byName["file"]; f.Size != 2 || f.Mode != 0o640 {
			t.Errorf("file: %+v", f)
		}
		if l := byName["link"]; l.Mode.Type() != fs.ModeSymlink || l.Target != "/etc/passwd" {
			t.Errorf("link: %+v", l)
		}
		if !byName["sub"].Mode.IsDir() || byName["pipe"].Mode.Type() != fs.ModeNamedPipe {
			t.Errorf("sub: %+v, pipe: %+v", byName["sub"], byName["pipe"])
		}
		if err := b.Remove(ctx, "/tmp/d/link"); err != nil {
			t.Errorf("remove a link: %v", err)
		}
		b.must(t, "test", "-s", "/etc/passwd") // the link's target is still there
		if err := b.Remove(ctx, "/tmp/d"); err != nil {
			t.Errorf("remove a directory: %v", err)
		}
		if _, err := b.Stat(ctx, "/tmp/d"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("stat after remove: %v", err)
		}
	})
	s.with(t, "Ranges", func(t *testing.T, b *box) {
		reader, ok := b.Sandbox.(sandbox.RangeReader)
		if !ok {
			t.Skip("it reads whole files only")
		}
		// With a hole that takes long to be read.
		b.sh(t, "printf 0123456789 >/tmp/big; truncate -s 1G /tmp/big; printf end >>/tmp/big")
		for _, c := range []struct {
			offset, size int64
			want         string
		}{
			{0, 4, "0123"}, {6, 4, "6789"}, {1 << 30, 2, "en"}, {1<<30 - 1, 100, "\x00end"}, {1<<30 + 3, 1, ""}, {1 << 62, 1, ""},
		} {
			var got strings.Builder
			if err := reader.ReadRange(t.Context(), "/tmp/big", c.offset, c.size, &got); err != nil || got.String() != c.want {
				t.Errorf("%d bytes at %d: %q, %v", c.size, c.offset, got.String(), err)
			}
		}
		for _, c := range []struct {
			name         string
			offset, size int64
			want         error
		}{
			{"/tmp/big", -1, 1, sandbox.ErrInvalid}, {"/tmp/big", 0, 0, sandbox.ErrInvalid}, {"/tmp", 1, 1, sandbox.ErrInvalid}, {"/tmp/none", 1, 1, fs.ErrNotExist},
		} {
			if err := reader.ReadRange(t.Context(), c.name, c.offset, c.size, io.Discard); !errors.Is(err, c.want) {
				t.Errorf("%s, %d bytes at %d: %v, want %v", c.name, c.size, c.offset, err, c.want)
			}
		}
	})
	s.with(t, "Errors", func(t *testing.T, b *box) {
		ctx := t.Context()
		b.sh(t, "mkfifo /tmp/pipe")
		read := func(name string) error { return b.ReadFile(ctx, name, io.Discard) }
		write := func(name string) error { return b.WriteFile(ctx, name, strings.NewReader("x"), 0o644) }
		stat := func(name string) error { _, err := b.Stat(ctx, name); return err }
		list := func(name string) error { _, err := b.ReadDir(ctx, name); return err }
		remove := func(name string) error { return b.Remove(ctx, name) }
		for _, c := range []struct {
			name string
			err  error
			want error
		}{
			{"read missing", read("/tmp/none"), fs.ErrNotExist},
			{"stat missing", stat("/tmp/none"), fs.ErrNotExist},
			{"list missing", list("/tmp/none"), fs.ErrNotExist},
			{"remove missing", remove("/tmp/none"), fs.ErrNotExist},
			{"write without parent", write("/tmp/none/x"), fs.ErrNotExist},
			{"file as directory", read("/etc/passwd/x"), fs.ErrNotExist},
			{"read a directory", read("/tmp"), sandbox.ErrInvalid},
			{"write a directory", write("/tmp"), sandbox.ErrInvalid},
			{"read a pipe", read("/tmp/pipe"), sandbox.ErrInvalid},
			{"write a pipe", write("/tmp/pipe"), sandbox.ErrInvalid},
			{"remove the root", remove("/"), sandbox.ErrInvalid},
			{"relative", read("etc/passwd"), sandbox.ErrInvalid},
			{"empty", read(""), sandbox.ErrInvalid},
			{"parent", read("/tmp/../etc/passwd"), sandbox.ErrInvalid},
			{"NUL", read("/etc/pass\x00wd"), sandbox.ErrInvalid},
			{"too long", read("/" + strings.Repeat("x", 5000)), sandbox.ErrInvalid},
		} {
			if !errors.Is(c.err, c.want) {
				t.Errorf("%s: got %v, want %v", c.name, c.err, c.want)
			}
		}
		broken := errors.New("source broke")
		if err := b.WriteFile(ctx, "/tmp/half", io.MultiReader(strings.NewReader("half"), failing{broken}), 0o644); !errors.Is(err, broken) {
			t.Errorf("broken source: got %v", err)
		}
		if err := stat("/tmp/half"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("half a file is there: %v", err)
		}
		if err := b.ReadFile(ctx, "/etc/passwd", failing{broken}); !errors.Is(err, broken) {
			t.Errorf("broken destination: got %v", err)
		}
	})
	s.with(t, "LinksStayInside", func(t *testing.T, b *box) {
		// A file of the host that the sandbox must not find, by whatever link.
		secret := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(secret, []byte("host"), 0o644); err != nil {
			t.Fatal(err)
		}
		up := strings.Repeat("../", 40)
		b.must(t, "ln", "-s", secret, "/tmp/absolute")
		b.must(t, "ln", "-s", up+secret[1:], "/tmp/relative")
		b.must(t, "ln", "-s", "/proc/1/root"+secret, "/tmp/proc")
		b.must(t, "ln", "-s", up+filepath.Dir(secret)[1:], "/tmp/dir")
		for _, name := range []string{"/tmp/absolute", "/tmp/relative", "/tmp/proc", "/tmp/dir/secret"} {
			if err := b.ReadFile(t.Context(), name, io.Discard); err == nil {
				t.Errorf("read %s: the host's file was found", name)
			}
			_ = b.WriteFile(t.Context(), name, strings.NewReader("guest"), 0o644)
		}
		if got, err := os.ReadFile(secret); err != nil || string(got) != "host" {
			t.Errorf("the host's file holds %q, %v", got, err)
		}
	})
}
