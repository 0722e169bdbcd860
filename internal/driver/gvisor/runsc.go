package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/head"
	"github.com/aethervm/aether/sandbox"
)

// rootFlag is given as one argument with its value, so that a sandbox's processes, which inherit
// it, can be found by it.
const rootFlag = "--root="

// Numbers of the file descriptors that runsc inherits besides its standard streams.
const (
	logFD     = 3
	processFD = 4
)

// runsc is the command, for one state directory.
type runsc struct {
	path string
	root string
}

// runscError is a failure of runsc itself, in its own words.
type runscError struct {
	op     string // subcommand
	detail string
}

func (e *runscError) Error() string { return "runsc " + e.op + ": " + e.detail }

// Is tells the failures that have a meaning of their own.
func (e *runscError) Is(target error) bool {
	return target == unix.ENOSPC && (strings.Contains(e.detail, unix.ENOSPC.Error()) || strings.Contains(e.detail, unix.ENOMEM.Error()))
}

// noSpace tells whether an error says that the host's disk or memory is full.
func noSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ENOMEM) }

// invocation is one run of runsc.
type invocation struct {
	op     string   // subcommand
	global []string // flags before it
	args   []string // flags and arguments after it

	stdin, stdout, stderr *os.File // nil: /dev/null
	process               []byte   // to be read at /proc/self/fd/4; nil: none
}

// clientDrain is how long a killed runsc may take to end.
const clientDrain = 5 * time.Second

// run runs runsc and returns its exit code. When ctx ends it is killed, and the context's error
// returned. A failure of runsc itself is a *runscError: of the exit code alone nobody can tell it
// from that of a program which it runs, but it says why in its log, and only then.
func (r *runsc) run(ctx context.Context, v invocation) (int, error) {
	log, err := memfile("log")
	if err != nil {
		return 0, err
	}
	defer log.Close()
	// It is killed only on ctx; the end of this goroutine's thread must not matter, so no Pdeathsig:
	// what an owner leaves when it is killed is found by Sweep.
	cmd := exec.CommandContext(ctx, r.path, r.argv(v)...)
	cmd.WaitDelay = clientDrain
	cmd.Stdin, cmd.Stdout, cmd.Stderr = file(v.stdin), file(v.stdout), file(v.stderr)
	cmd.ExtraFiles = []*os.File{log}
	if v.process != nil {
		process, err := memfile("process")
		if err != nil {
			return 0, err
		}
		defer process.Close()
		if _, err := process.Write(v.process); err != nil {
			return 0, fmt.Errorf("hand a program to runsc: %w", err)
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, process)
	}
	// What the caller has set for its own purposes is none of runsc's business.
	cmd.Env = []string{"PATH=" + sandbox.DefaultPath}
	err = cmd.Run()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	said := readLog(log)
	r.observe(ctx, v, said)
	var exit *exec.ExitError
	switch {
	case said != "":
		return 0, &runscError{op: v.op, detail: said}
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return 0, fmt.Errorf("run %s: %w", r.path, err)
	case !exit.Exited():
		return 0, &runscError{op: v.op, detail: exit.String()}
	}
	return exit.ExitCode(), nil
}

func (r *runsc) argv(v invocation) []string {
	argv := []string{rootFlag + r.root, fmt.Sprintf("--log-fd=%d", logFD), "--log-format=json"}
	return append(append(append(argv, v.global...), v.op), v.args...)
}

// file is f as exec.Cmd wants it: a nil *os.File in an interface would not be nil.
func file(f *os.File) interface {
	io.Reader
	io.Writer
} {
	if f == nil {
		return nil
	}
	return f
}

// call runs a subcommand that runs no program and returns what it prints.
func (r *runsc) call(ctx context.Context, op string, args ...string) ([]byte, error) {
	out, err := memfile("out")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	code, err := r.run(ctx, invocation{op: op, args: args, stdout: out})
	if err != nil {
		return nil, err
	}
	reply := readAll(out)
	if code != 0 {
		return nil, &runscError{op: op, detail: fmt.Sprintf("exit %d", code)}
	}
	return reply, nil
}

func (r *runsc) observe(ctx context.Context, v invocation, said string) {
	if !sandbox.Observed(ctx) {
		return
	}
	request := strings.Join(append([]string{r.path}, r.argv(v)...), " ")
	if v.process != nil {
		request += "\n" + string(v.process)
	}
	reply := said
	if said == "" && v.op != "exec" && v.stdout != nil {
		reply = string(readAll(v.stdout))
	}
	sandbox.Observe(ctx, sandbox.Call{Plane: "cli", Op: "runsc " + v.op, Sent: len(request), Received: len(reply), Request: request, Reply: reply})
}

// maxReply bounds what is read of runsc's log and output.
const maxReply = 1 << 20

// memfile makes a file without a name. Unlike a pipe it never blocks the writer, has its end
// wherever the writing stopped, and may be kept open by a sandbox without anyone waiting for it.
func memfile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate("aether-"+name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// readAll reads a file from its beginning, up to maxReply bytes; what cannot be read is missing.
func readAll(f *os.File) []byte {
	content, _ := io.ReadAll(io.NewSectionReader(f, 0, maxReply))
	return content
}

func readLog(f *os.File) string { return parseLog(readAll(f)) }

// version asks a runsc for its version.
func version(ctx context.Context, path string) (string, error) {
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.WaitDelay = clientDrain
	out := head.New(64 << 10)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("ask %s for its version: %w: %s", path, err, firstLine(out.Bytes()))
	}
	v, err := parseVersion(out.Bytes())
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	return v, nil
}
