package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestSocketIsPrivate from its first moment on, whatever the umask is.
func TestSocketIsPrivate(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "s")
	l, err := listenPrivate(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if old := syscall.Umask(0); old != 0 {
		t.Errorf("the umask is left as %#o", old)
	}
}

// TestBusySocketIsLeft to the server that listens on it, also where it cannot take one more connection.
func TestBusySocketIsLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			_ = syscall.Close(fd)
		}
	}()
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for range 16 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", path)
		if err != nil {
			break
		}
		defer func() { _ = conn.Close() }()
	}
	if l, err := listenUnix(t.Context(), path); err == nil || !strings.Contains(err.Error(), "in use") {
		if l != nil {
			_ = l.Close()
		}
		t.Errorf("it was taken from its server: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the socket is gone: %v", err)
	}
	_ = syscall.Close(fd)
	closed = true
	l, err := listenUnix(t.Context(), path) // one that nobody listens on is replaced
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}
