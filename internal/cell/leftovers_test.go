package cell

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/microguest"
)

// Every cycle must give back all that it took.
func TestCycles(t *testing.T) {
	needKVM(t)
	kernel := guestFile(t, microguest.Say("up\n"), microguest.Spin())
	cycle := func() {
		c, err := Start(t.Context(), Config{ID: testID, Program: program(t), Kernel: kernel, VCPUs: 1, MemoryMiB: 64})
		if err != nil {
			t.Fatal(err)
		}
		waitConsole(t, c, "up")
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		cycle()
	}
	before := count(t, "/proc/self/fd")
	started := time.Now()
	const cycles = 100
	for range cycles {
		cycle()
	}
	t.Logf("%v a cycle", time.Since(started)/cycles)
	if after := count(t, "/proc/self/fd"); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	if n := count(t, "/proc/self/task"); n > 64 {
		t.Errorf("%d threads", n)
	}
	noLeftovers(t)
}

func count(t testing.TB, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// noLeftovers looks for processes, control groups and mounts of cells.
func noLeftovers(t testing.TB) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range processes {
		text, err := os.ReadFile(name)
		if err != nil || string(text) != argv0+"\x00" {
			continue
		}
		status, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "stat"))
		if fields := strings.Fields(string(status)); len(fields) > 3 && fields[3] == itoa(os.Getpid()) {
			t.Errorf("process left: %s", status)
		}
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/" + testID + "*")
	if err != nil {
		t.Fatal(err)
	}
	unified, err := filepath.Glob("/sys/fs/cgroup/" + testID + "*")
	if err != nil {
		t.Fatal(err)
	}
	if all := append(groups, unified...); len(all) > 0 {
		t.Errorf("control groups left: %v", all)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), "aether-cell") {
		t.Errorf("a mount of a cell is seen outside:\n%s", mounts)
	}
}

// The owner of a cell, to be killed.

const ownerEnv = "AETHER_CELL_OWNER"

// ownerMain starts a cell, says which process it is, and waits.
func ownerMain() {
	kernel, err := os.Open(os.Getenv(ownerEnv))
	if err == nil {
		var c *Cell
		if c, err = Start(context.Background(), Config{ID: testID + "-owner", Program: thisProgram(), Kernel: kernel, VCPUs: 1, MemoryMiB: 64}); err == nil {
			_, _ = os.Stdout.WriteString(itoa(c.PID()) + "\n")
			select {}
		}
	}
	_, _ = os.Stderr.WriteString(err.Error())
	os.Exit(1)
}

func TestOwnerKilled(t *testing.T) {
	needKVM(t)
	kernel := guestFile(t, microguest.Spin())
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), ownerEnv+"="+kernel.Name())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 32)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	pid := atoi(strings.TrimSpace(string(line[:n])))
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err = unix.Poll(fds, 5000)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil || n != 1 {
		t.Fatalf("the cell outlives its owner: %v", err)
	}
	if os.Geteuid() == 0 {
		if n, err := Sweep(t.Context(), testID+"-owner"); err != nil || n != 1 {
			t.Errorf("swept %d control groups: %v", n, err)
		}
	}
	noLeftovers(t)
}
