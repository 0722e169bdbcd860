package cell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func prepareSpare(t *testing.T, memoryMiB int) *Spare {
	t.Helper()
	needKVM(t)
	s, err := Prepare(t.Context(), SpareConfig{ID: testID + "-spare", Program: program(t), VCPUs: 1, MemoryMiB: memoryMiB})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// A spare cell becomes the cell of a copy, or of a guest that boots, and is confined before it knows of which.
func TestSpare(t *testing.T) {
	inherited(t)
	parent := startGuest(t, nil, chatter())
	waitConsole(t, parent, "on")
	b, err := parent.Branch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for name, cfg := range map[string]Config{
		"copy": {From: b}, "boot": {Kernel: guestFile(t, chatter()), VCPUs: 1, MemoryMiB: 64},
	} {
		s := prepareSpare(t, 64)
		want := s.cell.Confinement()
		if missing := want.Missing(); len(missing) > 0 && !usesCgo() && os.Geteuid() == 0 {
			t.Errorf("a spare is not confined by %v", missing)
		}
		hasNothing(t, s)
		c, err := s.Start(t.Context(), cfg)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if c.ID() != s.ID() || c.PID() != s.PID() {
			t.Errorf("%s: cell %s of process %d", name, c.ID(), c.PID())
		}
		waitConsole(t, c, "on")
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := parent.Close(); err != nil {
		t.Error(err)
	}
	noLeftovers(t)
}

// inherited has a file open that is passed on to every process that is started, as one may have been that this one's parent had.
func inherited(t *testing.T) {
	t.Helper()
	f, err := os.Open("/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(f.Fd())) // is not closed by an exec
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
}

// hasNothing looks at the descriptors of a spare: sockets and pipes to its owner, what the kernel has of a VM, and no file of
// anybody.
func hasNothing(t *testing.T, s *Spare) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", s.PID())
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		target, err := os.Readlink(dir + "/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		known := target == os.DevNull || strings.HasSuffix(target, "/pagemap")
		for _, prefix := range []string{"socket:", "pipe:", "anon_inode:"} {
			known = known || strings.HasPrefix(target, prefix)
		}
		if !known {
			t.Errorf("a spare has %s open", target)
		}
	}
}

// What no cell can be made of ends the spare, and leaves nothing.
func TestSpareRefuses(t *testing.T) {
	kernel := guestFile(t, chatter())
	notKernel, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer notKernel.Close()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx context.Context
		cfg Config
	}{
		"more memory": {t.Context(), Config{Kernel: kernel, VCPUs: 1, MemoryMiB: 128}},
		"more vCPUs":  {t.Context(), Config{Kernel: kernel, VCPUs: 2, MemoryMiB: 64}},
		"no kernel":   {t.Context(), Config{VCPUs: 1, MemoryMiB: 64}},
		"bad kernel":  {t.Context(), Config{Kernel: notKernel, VCPUs: 1, MemoryMiB: 64}},
		"cancelled":   {ended, Config{Kernel: kernel, VCPUs: 1, MemoryMiB: 64}},
	} {
		s := prepareSpare(t, 64)
		if c, err := s.Start(c.ctx, c.cfg); err == nil {
			_ = c.Close()
			if name != "cancelled" { // it may have been ready
				t.Errorf("%s: a cell", name)
			}
		}
		<-s.Done()
	}
	noLeftovers(t)
	if _, err := Prepare(t.Context(), SpareConfig{ID: "../x", Program: program(t), VCPUs: 1, MemoryMiB: 64}); !errors.Is(err, ErrConfig) {
		t.Errorf("an ID that is a path: %v", err)
	}
}

// A spare that was killed says so, and fails who uses it all the same.
func TestSpareKilled(t *testing.T) {
	s := prepareSpare(t, 64)
	if err := unix.Kill(s.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("it has not ended")
	}
	if _, err := s.Start(t.Context(), Config{Kernel: guestFile(t, chatter()), VCPUs: 1, MemoryMiB: 64}); !errors.Is(err, ErrEnded) {
		t.Errorf("%v", err)
	}
	noLeftovers(t)
}
