package filelock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestTry(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	first, second := open(t, name), open(t, name)
	if err := Try(first, Shared); err != nil {
		t.Fatal(err)
	}
	if err := Try(second, Shared); err != nil {
		t.Fatal(err)
	}
	if err := Try(second, Exclusive); !errors.Is(err, ErrHeld) {
		t.Fatalf("exclusive beside a shared one: %v", err)
	}
	_ = first.Close()
	if err := Try(second, Exclusive); err != nil {
		t.Fatal(err)
	}
}

func TestOpen(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	first, err := Open(name, Exclusive, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(name, Shared, 0o600); !errors.Is(err, ErrHeld) {
		t.Errorf("held: %v", err)
	}
	_ = first.Close()
	second, err := Open(name, Shared, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_ = second.Close()
}

func TestWait(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	first, err := Wait(t.Context(), name, Exclusive, 0o600, func() { t.Error("nobody held it") })
	if err != nil {
		t.Fatal(err)
	}
	waits := 0
	go func() {
		time.Sleep(20 * time.Millisecond)
		_ = first.Close()
	}()
	second, err := Wait(t.Context(), name, Exclusive, 0o600, func() { waits++ })
	if err != nil || waits != 1 {
		t.Fatalf("%v, said %d times that it is held", err, waits)
	}
	gaveUp := errors.New("gave up")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, gaveUp)
	defer cancel()
	if _, err := Wait(ctx, name, Exclusive, 0o600, nil); !errors.Is(err, gaveUp) {
		t.Errorf("%v", err)
	}
	_ = second.Close()
}

func TestSame(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	f := open(t, name)
	if !Same(f, name) {
		t.Error("the same file is another one")
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if Same(f, name) {
		t.Error("a file that was removed")
	}
	open(t, name)
	if Same(f, name) {
		t.Error("a file that was replaced")
	}
}

func open(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}
