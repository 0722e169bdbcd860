package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/image"
)

// Environment of the test binary when it stands in for another process: what to do, and with what.
const (
	helperEnv = "AETHER_IMAGE_HELPER"
	storeEnv  = "AETHER_IMAGE_STORE"
	sourceEnv = "AETHER_IMAGE_SOURCE"
)

func TestMain(m *testing.M) {
	switch os.Getenv(helperEnv) {
	case "":
		os.Exit(m.Run())
	case "stuck": // a build that never gets to its end
		_, err := image.Open(os.Getenv(storeEnv)).Build(context.Background(), "victim", os.Getenv(sourceEnv), func(p image.Progress) {
			if p.Phase == "digest" {
				fmt.Println("unpacked")
				select {}
			}
		})
		fmt.Println(err)
	case "unprivileged":
		if err := unprivileged(image.Open(os.Getenv(storeEnv)), os.Getenv(sourceEnv)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(1)
}

// mtime is the modification time of all entries that name no other.
var mtime = time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)

func dir(name string, mode int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}
}

// file is a regular file whose content is text; it travels in the header's user name.
func file(name, text string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text)), Uname: text}
}

func symlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}
}

func hardlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}

// archive is a tar archive of the entries, whatever their names.
func archive(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		text := h.Uname
		h.Uname = ""
		if h.ModTime.IsZero() {
			h.ModTime = mtime
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// save writes content to a file of the test and returns its path.
func save(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func newStore(t testing.TB) *image.Store {
	t.Helper()
	return image.Open(filepath.Join(t.TempDir(), "images"))
}

// build builds and resolves an image that must come out well.
func build(t testing.TB, s *image.Store, name, source string) image.Entry {
	t.Helper()
	e, err := s.Build(t.Context(), name, source, nil)
	if err != nil {
		t.Fatalf("Build(%s): %v", source, err)
	}
	return e
}

// tree describes what lies below the root file system of an image, one line a file.
func tree(t testing.TB, s *image.Store, name string) []string {
	t.Helper()
	img, err := s.Resolve(name)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	err = filepath.WalkDir(img.Rootfs, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == img.Rootfs {
			return err
		}
		rel, _ := filepath.Rel(img.Rootfs, path)
		switch d.Type() {
		case fs.ModeDir:
			lines = append(lines, rel+"/")
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			lines = append(lines, rel+" -> "+target)
		default:
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			lines = append(lines, rel+" = "+string(text))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func wantTree(t testing.TB, s *image.Store, name string, want ...string) {
	t.Helper()
	if got := tree(t, s, name); !slices.Equal(got, want) {
		t.Errorf("tree of %s:\n got %s\nwant %s", name, strings.Join(got, "; "), strings.Join(want, "; "))
	}
}

// wantEmpty fails if the store shows an image or keeps the rest of a build.
func wantEmpty(t testing.TB, s *image.Store) {
	t.Helper()
	list, err := s.List()
	if err != nil || len(list) != 0 {
		t.Errorf("List = %v, %v; want nothing", list, err)
	}
	wantNoRest(t, s)
}

func wantNoRest(t testing.TB, s *image.Store) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Dir(), "tmp"))
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		t.Errorf("left in the store: tmp/%s", e.Name())
	}
}
