package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/aethervm/aether/internal/tail"
	"github.com/aethervm/aether/sandbox"
)

const (
	// endPatience is how long a program may take to end once it is told to.
	endPatience = 5 * time.Second
	// errorSize and errorLines bound what an error quotes of a program's standard error.
	errorSize  = 2048
	errorLines = 4
)

// run returns what a program prints; errors hold the end of its standard error. The program's whole
// process group ends with ctx, and the program with this process.
func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	// The kernel sends the death signal when the thread that made the process ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = endPatience
	var out bytes.Buffer
	said := tail.New(errorSize)
	cmd.Stdout, cmd.Stderr = &out, said
	err := cmd.Run()
	switch {
	case err == nil:
		return out.String(), nil
	case errors.Is(err, exec.ErrNotFound):
		return "", &sandbox.Error{Op: "run " + name, Err: sandbox.ErrUnavailable, Detail: name + " is not installed",
			Remedy: "use a host that has apt"}
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s: %w", name, context.Cause(ctx))
	}
	return "", fmt.Errorf("%s: %w: %s", name, err, said.Last(errorLines))
}
