package inside

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Some questions can cost the process that asks them its life (a seccomp filter that kills) or
// change it (a new namespace), so they are asked by a child: the same program, with arguments.
const (
	childSyscalls = "syscalls" // INDEX: make the system calls of the list from INDEX on
	childNested   = "nested"   // in new namespaces already: try to mount in them
)

const childLimit = 10 * time.Second

func child(args []string, stdout io.Writer) error {
	switch {
	case args[0] == childSyscalls && len(args) == 2:
		first, err := strconv.Atoi(args[1])
		if err != nil || first < 0 {
			return fmt.Errorf("bad index %q", args[1])
		}
		return syscallChild(first, stdout)
	case args[0] == childNested && len(args) == 1:
		return nestedChild(stdout)
	}
	return fmt.Errorf("unknown arguments %q; the command takes none", args)
}

// startError means that the child could not even be started.
type startError struct{ err error }

func (e *startError) Error() string { return "start a child: " + e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// exitError means that the child ran and did not end well.
type exitError struct{ state *os.ProcessState }

func (e *exitError) Error() string { return "the child ended with " + e.state.String() }

// maxChildOutput is far more than a child has to say.
const maxChildOutput = 64 << 10

// runChild runs a child and returns the lines that it wrote to either output, also when it ended
// badly.
func runChild(attr *syscall.SysProcAttr, args ...string) ([]string, error) {
	// Pipes only: not every sandbox has a /dev/null.
	read, write, err := os.Pipe()
	if err != nil {
		return nil, &startError{err}
	}
	defer func() { _ = read.Close() }()
	empty, closed, err := os.Pipe()
	if err != nil {
		_ = write.Close()
		return nil, &startError{err}
	}
	_ = closed.Close()
	child, err := os.StartProcess(selfPath(), append([]string{"aether-agent", Subcommand}, args...), &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: []*os.File{empty, write, write}, Sys: attr,
	})
	_, _ = empty.Close(), write.Close()
	if err != nil {
		return nil, &startError{err}
	}
	var late atomic.Bool
	limit := time.AfterFunc(childLimit, func() {
		late.Store(true)
		_ = child.Kill()
	})
	out, readErr := io.ReadAll(io.LimitReader(read, maxChildOutput))
	_ = read.Close() // one that writes more dies of it
	state, err := child.Wait()
	limit.Stop()
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	switch {
	case err != nil:
		return nil, fmt.Errorf("wait for the child: %w", err)
	case late.Load():
		return nil, fmt.Errorf("the child did not end within %v", childLimit)
	case readErr != nil:
		return nil, fmt.Errorf("read what the child says: %w", readErr)
	case !state.Success():
		return lines, &exitError{state}
	}
	return lines, nil
}

// endedBadly tells the death of a child from other failures.
func endedBadly(err error) bool {
	var exit *exitError
	return errors.As(err, &exit)
}

// lastField returns what follows the word in the last line that starts with it.
func lastField(lines []string, word string) (string, bool) {
	for i := len(lines) - 1; i >= 0; i-- {
		if rest, ok := strings.CutPrefix(lines[i], word+" "); ok {
			return rest, true
		}
	}
	return "", false
}
