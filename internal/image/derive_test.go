package image_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aethervm/aether/internal/image"
)

func TestDerived(t *testing.T) {
	s := newStore(t)
	build(t, s, "x", save(t, "x.tar", archive(t, file("f", "x"))))
	img, err := s.Resolve("x")
	if err != nil {
		t.Fatal(err)
	}
	failure := errors.New("out of luck")
	if path, err := image.Derived(t.Context(), img, "disk", func(_ context.Context, tmp string) error {
		return errors.Join(os.WriteFile(tmp, []byte("half"), 0o600), failure)
	}); path != "" || !errors.Is(err, failure) {
		t.Errorf("Derived with a maker that fails = %q, %v", path, err)
	}
	if _, err := image.Derived(t.Context(), img, "disk", func(context.Context, string) error { return nil }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Derived with a maker that makes nothing: %v", err)
	}
	stale := filepath.Join(img.Cache, ".disk.tmp-of-a-dead-maker")
	if err := os.WriteFile(stale, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	var made atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			path, err := image.Derived(t.Context(), img, "disk", func(_ context.Context, tmp string) error {
				made.Add(1)
				return os.WriteFile(tmp, []byte("whole"), 0o600)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != "whole" {
				t.Errorf("derived: %q, %v", b, err)
			}
		})
	}
	wg.Wait()
	if n := made.Load(); n != 1 {
		t.Errorf("made %d times, want once", n)
	}
	if info, err := os.Stat(filepath.Join(img.Cache, "disk")); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("derived file: %v, %v; want it readable by all", info, err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the rest of a dead maker is still there: %v", err)
	}
	if e, err := s.List(); err != nil || len(e) != 1 {
		t.Errorf("List = %v, %v", e, err)
	}
	if err := s.Remove(t.Context(), "x"); err != nil {
		t.Error(err)
	}
}

func TestDerivedWaitsNoLongerThanContext(t *testing.T) {
	s := newStore(t)
	build(t, s, "x", save(t, "x.tar", archive(t, file("f", "x"))))
	img, err := s.Resolve("x")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = image.Derived(t.Context(), img, "disk", func(_ context.Context, tmp string) error {
		if err := s.Remove(t.Context(), "x"); !errors.Is(err, image.ErrInUse) {
			t.Errorf("Remove while a form is derived: %v", err)
		}
		cancel()
		if _, err := image.Derived(ctx, img, "disk", nil); !errors.Is(err, context.Canceled) {
			t.Errorf("second maker: %v", err)
		}
		return os.Mkdir(tmp, 0o700)
	})
	if err != nil {
		t.Error(err)
	}
}
