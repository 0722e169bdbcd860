package bomb

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "bomb" {
		os.Exit(Main(os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func TestArgumentsAreBounded(t *testing.T) {
	for _, args := range [][]string{
		nil, {"memory"}, {"disk", "1", "1s"}, {"memory", "0", "1s"}, {"memory", "-1", "1s"}, {"memory", "5000", "1s"},
		{"processes", "100000", "1s"}, {"processes", "1", "0s"}, {"processes", "1", "1h"}, {"processes", "1", "x"},
	} {
		var stderr bytes.Buffer
		if code := Main(args, &bytes.Buffer{}, &stderr); code == 0 || stderr.Len() == 0 {
			t.Errorf("%q: code %d, %s", args, code, stderr.String())
		}
	}
}

// run starts a small bomb in a process group of its own and checks that nothing of it is left.
func run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{"bomb"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	for range 200 { // children end at the deadline too, each on its own
		if unix.Kill(-cmd.Process.Pid, 0) == unix.ESRCH {
			return out.String()
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("processes of the bomb are left: %v", unix.Kill(-cmd.Process.Pid, unix.SIGKILL))
	return out.String()
}

func TestProcesses(t *testing.T) {
	start := time.Now()
	out := run(t, Processes, "20", "300ms")
	if d := time.Since(start); d < 300*time.Millisecond || d > 10*time.Second {
		t.Errorf("took %v", d)
	}
	if strings.TrimSpace(out) != "20 processes, 0 times refused" {
		t.Errorf("said %q", out)
	}
}

func TestMemory(t *testing.T) {
	if out := run(t, Memory, "32", "200ms"); strings.TrimSpace(out) != fmt.Sprintf("took %d MiB", 32) {
		t.Errorf("said %q", out)
	}
}
