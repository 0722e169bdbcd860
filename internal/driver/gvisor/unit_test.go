package gvisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

func TestTyped(t *testing.T) {
	if err := typed("create", "", nil); err != nil {
		t.Errorf("no error became %v", err)
	}
	for _, c := range []struct {
		err  error
		kind error
	}{
		{&runscError{"run", "creating container: write /x: no space left on device"}, sandbox.ErrNoSpace},
		{&runscError{"run", "fork/exec: cannot allocate memory"}, sandbox.ErrNoSpace},
		{fmt.Errorf("make: %w", unix.ENOSPC), sandbox.ErrNoSpace},
		{&os.PathError{Op: "mkdir", Path: "/run/x", Err: unix.EACCES}, fs.ErrPermission},
		{&runscError{"run", "anything else"}, sandbox.ErrUnavailable},
		{fmt.Errorf("wrapped: %w", &sandbox.Error{Err: sandbox.ErrDead}), sandbox.ErrDead},
	} {
		err := typed("create", "id", c.err)
		var e *sandbox.Error
		if !errors.Is(err, c.kind) || !errors.As(err, &e) {
			t.Errorf("%v became %v, want a *sandbox.Error of kind %v", c.err, err, c.kind)
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	image := sandbox.Image{Rootfs: t.TempDir()}
	for name, c := range map[string]struct {
		spec sandbox.Spec
		kind error
	}{
		"outbound network": {sandbox.Spec{Image: image, Network: sandbox.NetworkOutbound}, sandbox.ErrUnsupported},
		"missing image":    {sandbox.Spec{Image: sandbox.Image{Rootfs: "/no/such"}}, sandbox.ErrInvalid},
		"relative image":   {sandbox.Spec{Image: sandbox.Image{Rootfs: "x"}}, sandbox.ErrInvalid},
	} {
		_, err := d.Create(t.Context(), c.spec)
		var e *sandbox.Error
		if !errors.Is(err, c.kind) || !errors.As(err, &e) || e.Remedy == "" {
			t.Errorf("%s: %v, want kind %v with a remedy", name, err, c.kind)
		}
	}
	for _, snap := range []sandbox.Snapshot{{System: "docker", Ref: "/x"}, {System: System, Ref: "relative"}} {
		if _, err := d.Restore(t.Context(), snap); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("restore %+v: %v", snap, err)
		}
		if err := d.RemoveSnapshot(t.Context(), snap); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("remove %+v: %v", snap, err)
		}
	}
}

func TestRemoveImageRemovesNothingElse(t *testing.T) {
	dir := t.TempDir()
	for _, name := range append(imageFiles(), "of the user") {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("12345"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if size, err := imageSize(dir); size != 15 || err != nil {
		t.Errorf("size %d, %v; want 15", size, err)
	}
	for range 2 {
		if err := removeImage(dir); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || entries[0].Name() != "of the user" {
		t.Errorf("left %v, %v", entries, err)
	}
	if _, err := imageSize(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("size of a checkpoint that is gone: %v", err)
	}
}

// TestRunTellsFailures uses a shell script in the place of runsc, which has the same two channels:
// the exit code and the log.
func TestRunTellsFailures(t *testing.T) {
	name := filepath.Join(t.TempDir(), "runsc")
	script := `#!/bin/sh
for arg; do case $arg in
  ok) exit 0;; exit-7) exit 7;; exit-128) exit 128;;
  fails) echo '{"msg":"it broke","level":"error"}' >&3; exit 128;;
  killed) kill -9 $$;; process) cat /proc/self/fd/4;; hangs) exec sleep 60;;
esac; done`
	if err := os.WriteFile(name, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	r := &runsc{path: name, root: "/root/of/state"}
	for op, want := range map[string]int{"ok": 0, "exit-7": 7, "exit-128": 128} {
		if code, err := r.run(t.Context(), invocation{op: op}); code != want || err != nil {
			t.Errorf("%s: %d, %v", op, code, err)
		}
	}
	for op, want := range map[string]string{"fails": "runsc fails: it broke", "killed": "runsc killed: signal: killed"} {
		var e *runscError
		if _, err := r.run(t.Context(), invocation{op: op}); !errors.As(err, &e) || err.Error() != want {
			t.Errorf("%s: %v, want %q", op, err, want)
		}
	}
	out, err := memfile("out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var seen []sandbox.Call
	ctx := sandbox.WithObserver(t.Context(), func(c sandbox.Call) { seen = append(seen, c) })
	if _, err := r.run(ctx, invocation{op: "process", process: []byte("the program"), stdout: out}); err != nil || string(readAll(out)) != "the program" {
		t.Errorf("process: %q, %v", readAll(out), err)
	}
	if len(seen) != 1 || seen[0].Op != "runsc process" || seen[0].Sent != len(seen[0].Request) || !strings.HasSuffix(seen[0].Request, "process\nthe program") {
		t.Errorf("observed %+v", seen)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := r.run(ctx, invocation{op: "hangs"}); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > clientDrain+time.Second {
		t.Errorf("hangs: %v after %v", err, time.Since(start))
	}
}

func TestOutputDeliversWhatWasWritten(t *testing.T) {
	// More than a pipe holds, to a slow writer, and the pipe is still open when the program ends.
	var got bytes.Buffer
	o, err := newOutput(writerFunc(func(p []byte) (int, error) {
		time.Sleep(time.Millisecond)
		return got.Write(p)
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	want := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	if _, err := o.w.Write(want); err != nil {
		t.Fatal(err)
	}
	o.finish(t.Context())
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d of %d bytes were delivered", got.Len(), len(want))
	}
	// Who still writes is told that nobody reads.
	if _, err := o.w.Write([]byte("late")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("a late write: %v, want EPIPE", err)
	}
}

func TestOutputOfABlockedWriterEndsWithTheContext(t *testing.T) {
	block := make(chan struct{})
	defer close(block)
	o, err := newOutput(writerFunc(func(p []byte) (int, error) { <-block; return len(p), nil }))
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	if _, err := o.w.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	o.finish(ctx) // returns
}

func TestInputEndsWithoutItsReader(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	in, err := newInput(r)
	if err != nil {
		t.Fatal(err)
	}
	in.close() // does not wait for the reader, which blocks
	if _, err := in.r.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("read: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestKillMarkedKillsOnlyTheMarked(t *testing.T) {
	marker := rootFlag + filepath.Join(t.TempDir(), "root")
	spared := exec.Command("sleep", "60")
	hit := exec.Command("sh", "-c", "sleep 60; true", marker)
	for _, cmd := range []*exec.Cmd{spared, hit} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Wait() }()
		defer func() { _ = cmd.Process.Kill() }()
	}
	p, err := openProcess(hit.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if p.ended() {
		t.Error("ended before it was killed")
	}
	if err := wipe(t.Context(), marker, func() []group { return nil }); err != nil {
		t.Fatal(err)
	}
	if !p.ended() {
		t.Error("the marked process lives")
	}
	other, err := openProcess(spared.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if other.ended() {
		t.Error("another process was killed")
	}
	if err := errors.Join(p.close(), other.close()); err != nil {
		t.Error(err)
	}
	if !p.ended() {
		t.Error("a closed process counts as running")
	}
}

func TestRunDirectoryTooLongForASocket(t *testing.T) {
	if err := fits("/run/aether/gvisor"); err != nil {
		t.Error(err)
	}
	err := fits("/" + strings.Repeat("x", 60))
	if e := (*sandbox.Error)(nil); !errors.As(err, &e) || !strings.Contains(e.Remedy, "AETHER_RUN") {
		t.Errorf("got %v", err)
	}
}

func TestUncleanLeaseIsLeftToSweep(t *testing.T) {
	t.Setenv("AETHER_RUN", "/tmp/"+filepath.Base(t.TempDir())+fmt.Sprint(os.Getpid()))
	t.Setenv("AETHER_STATE", t.TempDir())
	defer func() { _ = os.RemoveAll(os.Getenv("AETHER_RUN")) }()
	o, err := own()
	if err != nil {
		t.Fatal(err)
	}
	o.unclean.Store(true)
	if err := o.disown(); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(o.Dir); err != nil {
		t.Errorf("the lease is gone: %v", err)
	}
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{o.Dir, o.disks} {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", dir, err)
		}
	}
}
