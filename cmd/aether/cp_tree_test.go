package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// testTrees copies directories into a sandbox of a real system, out of it, and between two.
func testTrees(t *testing.T, dir, sb string) {
	from, at := filepath.Join(dir, "tree"), time.Unix(1_000_000_000, 0)
	large := strings.Repeat("0123456789abcdef", 1<<18)
	for _, err := range []error{
		os.MkdirAll(filepath.Join(from, "d"), 0o755), os.WriteFile(filepath.Join(from, "a"), []byte("one"), 0o751),
		os.WriteFile(filepath.Join(from, "d", "b"), []byte(large), 0o600), os.Symlink("../a", filepath.Join(from, "d", "l")),
		os.Chmod(filepath.Join(from, "a"), 0o751), os.Chtimes(filepath.Join(from, "a"), at, at), os.Chtimes(filepath.Join(from, "d"), at, at),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	check := func(copied string) {
		t.Helper()
		if content, err := os.ReadFile(filepath.Join(copied, "d", "b")); string(content) != large {
			t.Errorf("%s: %d bytes, %v", copied, len(content), err)
		}
		for _, name := range []string{"a", "d"} {
			want, err1 := os.Lstat(filepath.Join(from, name))
			got, err2 := os.Lstat(filepath.Join(copied, name))
			if err := errors.Join(err1, err2); err != nil || got.Mode() != want.Mode() || !got.ModTime().Equal(at) {
				t.Errorf("%s/%s: %v, %v", copied, name, got, err)
			}
		}
		if target, err := os.Readlink(filepath.Join(copied, "d", "l")); target != "../a" {
			t.Errorf("%s: link to %q, %v", copied, target, err)
		}
	}
	runCommand(t, 0, "", "cp", "-r", from, sb+":/tree")      // made
	runCommand(t, 0, "", "cp", "-r", from, sb+":/tree")      // beneath it
	runCommand(t, 0, "", "cp", "-r", from+"/.", sb+":/tree") // over it
	runCommand(t, 0, "", "cp", "-r", sb+":/tree/tree", filepath.Join(dir, "tree-back"))
	check(filepath.Join(dir, "tree-back"))
	runCommand(t, 0, "", "cp", "-r", sb+":/tree/tree", sb+":/other")
	into := filepath.Join(dir, "into")
	if err := os.Mkdir(into, 0o700); err != nil {
		t.Fatal(err)
	}
	runCommand(t, 0, "", "cp", "-r", sb+":/other", sb+":/tree/a", into)
	check(filepath.Join(into, "other"))
	out, _ := runCommand(t, 0, "", "cp", "-r", sb+":/other", "-")
	runCommand(t, 0, out, "cp", "-r", "-", sb+":/fromtar")
	runCommand(t, 0, "", "cp", "-r", sb+":/fromtar/.", filepath.Join(dir, "again"))
	check(filepath.Join(dir, "again"))

	if err := syscall.Mkfifo(filepath.Join(from, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs := runCommand(t, 1, "", "cp", "-r", from, sb+":/partial"); !strings.Contains(errs, `"fifo"`) || !strings.Contains(errs, "1 entry was not copied") {
		t.Errorf("a pipe: %q", errs)
	}
	var hostile bytes.Buffer
	w := tar.NewWriter(&hostile)
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "../../outside", Size: 1, Mode: 0o644})
	_, _ = w.Write([]byte("x"))
	_ = w.Close()
	if _, errs := runCommand(t, 2, hostile.String(), "cp", "-r", "-", sb+":/tree"); !strings.Contains(errs, "leads out") {
		t.Errorf("a hostile archive: %q", errs)
	}
	testPlantedLinks(t, dir, sb)
	runCommand(t, 4, "", "cp", "-r", sb+":/none", dir)
	runCommand(t, 2, "", "cp", "-r", sb+":/tree", sb+":/other", "-")
	if _, errs := runCommand(t, 2, "", "cp", from, sb+":/x"); !strings.Contains(errs, "-r") {
		t.Errorf("without -r: %q", errs)
	}
}

// testPlantedLinks has a sandbox send a link, and then a directory or a file of that name.
func testPlantedLinks(t *testing.T, dir, sb string) {
	outside, into := filepath.Join(dir, "outside"), filepath.Join(dir, "planted")
	pipe := filepath.Join(dir, "pipe")
	if err := errors.Join(os.Mkdir(outside, 0o755), os.Mkdir(into, 0o755), syscall.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	runCommand(t, 0, "", "exec", sb, "--", "sh", "-c", "mkdir -p /plant && ln -s "+outside+" /plant/results && ln -s "+pipe+" /plant/log")
	runCommand(t, 0, "", "cp", "-r", sb+":/plant/.", into)
	runCommand(t, 0, "", "exec", sb, "--", "sh", "-c", "cd /plant && rm results log && mkdir results && echo x > results/a && echo y > log")
	if _, errs := runCommand(t, 1, "", "cp", "-r", sb+":/plant/results", into); !strings.Contains(errs, "no directory") {
		t.Errorf("a directory in place of a link: %q", errs)
	}
	runCommand(t, 0, "", "cp", sb+":/plant/log", into) // it would wait for a reader of the pipe
	if content, err := os.ReadFile(filepath.Join(into, "log")); string(content) != "y\n" {
		t.Errorf("a file in place of a link: %q, %v", content, err)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("outside: %v, %v", left, err)
	}
}

// TestCopyDoesNotWaitForItsSource when the destination has refused it.
func TestCopyDoesNotWaitForItsSource(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now()) // as aether does
		w.Header().Set("Connection", "close")
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"code": "not_found", "cause": "there is none", "op": "write tree"}`))
	}))
	defer server.Close()
	t.Setenv("AETHER_SERVER", server.URL)
	never, typing := io.Pipe()
	defer typing.Close()
	done := make(chan int, 1)
	go func() { done <- run([]string{"cp", "-r", "-", "sbaaaaaaaaaa:/x"}, never, io.Discard, io.Discard) }()
	select {
	case code := <-done:
		if code != exitNotFound {
			t.Errorf("exit code %d", code)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits")
	}
}

func TestArchiveThatGoesOnBehindItsEnd(t *testing.T) {
	for size, ok := range map[int64]bool{0: true, maxRest: true, maxRest + 1: false, 1 << 40: false} {
		if err := readRest(io.LimitReader(endless{}, size)); (err == nil) != ok {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
