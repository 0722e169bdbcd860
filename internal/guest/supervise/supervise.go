// Package supervise runs a program inside a sandbox so that it can be ended with everything that it
// has started.
//
// It is for systems whose control plane can start a program but cannot end one: Docker's exec has
// no kill at all, and runsc's reaches a single process. The supervisor is a child subreaper, so a
// descendant that daemonizes becomes its child instead of escaping to PID 1, and it can kill until
// no child is left. The program gets the caller's own standard streams: no data passes through.
//
// When the program ends by itself and has left others running, the supervisor must end too: they go
// on as children of PID 1. Background jobs are wanted.
package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

// Exit codes of the supervisor from 125 on need a look at the status: they may be the program's own.
const (
	FirstAmbiguousCode = 125
	CodeCannotRun      = 127
	codeSignalBase     = 128
)

// Status says how the program ended, where the exit code alone does not.
type Status struct {
	Code      int    `json:"code"`
	Signal    int    `json:"signal,omitempty"`
	TimedOut  bool   `json:"timed_out,omitempty"`
	CannotRun string `json:"cannot_run,omitempty"` // why it could not be started
}

// Options of a run.
type Options struct {
	ID      string // names the run to Kill and TakeStatus; [a-z0-9]+
	Args    []string
	Env     []string      // whole environment
	Dir     string        // absolute; empty: "/"
	Timeout time.Duration // 0: none
	// Streams are the program's standard streams. Run closes them: it must not keep them open for
	// the reader on the other side.
	// With a Terminal they are those of whoever types and looks on: on the first come frames of package agentproto
	// (KindInput, KindInputEnd, KindResize), on the second goes what is written to the terminal.
	Streams [3]int
	// Terminal, if not nil, is the size of a terminal that the program gets for its standard streams.
	Terminal *sandbox.TerminalSize
	// Kill kills the program with all its descendants, as SIGTERM to this process does. Nil: never.
	Kill <-chan struct{}
}

// ParseOptions parses "--id ID [--timeout DURATION] [--dir DIR] [--terminal ROWSxCOLS] -- PROGRAM [ARG ...]".
func ParseOptions(args []string) (Options, error) {
	var o Options
	for len(args) >= 2 && args[0] != "--" {
		switch name, value := args[0], args[1]; name {
		case "--id":
			o.ID = value
		case "--dir":
			o.Dir = value
		case "--timeout":
			d, err := time.ParseDuration(value)
			if err != nil {
				return o, err
			}
			o.Timeout = d
		case "--terminal":
			size, err := parseSize(value)
			if err != nil {
				return o, err
			}
			o.Terminal = &size
		default:
			return o, fmt.Errorf("unknown option %q", name)
		}
		args = args[2:]
	}
	if o.ID == "" || len(args) < 2 {
		return o, errors.New("no ID or no program")
	}
	o.Args = args[1:]
	return o, nil
}

// Supervisor is this process, ready to run programs, one after the other.
type Supervisor struct {
	kill    chan os.Signal
	err     error // why it is not ready
	reaping sync.WaitGroup
}

// Prepare does what can be done before the program is known. It may be called once in a process.
func Prepare() *Supervisor {
	s := &Supervisor{kill: make(chan os.Signal, 1)}
	// Before anything is started, so that nothing can escape.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		s.err = fmt.Errorf("become child subreaper: %w", err)
	}
	signal.Notify(s.kill, unix.SIGTERM)
	spareThreads(4)
	return s
}

// Idle tells whether nothing is left of the last program, so that Run may be called again. What is
// left is PID 1's once this process ends.
func (s *Supervisor) Idle() bool {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.ECHILD):
			s.reaping.Wait() // or it would collect the next program
			return true
		case pid <= 0 && !errors.Is(err, unix.EINTR):
			return false
		}
	}
}

// Run runs the program and returns the exit code to be told.
func (s *Supervisor) Run(o Options) int {
	status := s.run(o)
	code := status.Code
	switch {
	case status.CannotRun != "":
		code = CodeCannotRun
	case status.Signal != 0:
		code = codeSignalBase + status.Signal
	}
	if code >= FirstAmbiguousCode {
		// Without the file the caller falls back on the shell's convention, 128 + signal.
		_ = writeStatus(o.ID, status)
	}
	return code
}

func (s *Supervisor) run(o Options) Status {
	var t *terminal
	var err error
	if o.Terminal != nil {
		t, err = openTerminal(o)
	}
	child := 0
	if err == nil {
		child, err = s.start(o, t)
	}
	switch {
	case t == nil:
		for _, fd := range o.Streams {
			_ = unix.Close(fd)
		}
	case err != nil:
		_ = t.in.Close()
		t.close()
	}
	if errors.Is(err, errKilled) {
		return Status{Signal: int(unix.SIGKILL)}
	}
	if err != nil {
		return Status{CannotRun: err.Error()}
	}
	ended := make(chan unix.WaitStatus, 1)
	allEnded := make(chan struct{})
	s.reaping.Go(func() { reap(child, ended, allEnded) })
	if t != nil {
		t.serve()
		defer t.close()
	}

	var timeout <-chan time.Time
	if o.Timeout > 0 {
		timeout = time.After(o.Timeout)
	}
	status := Status{Signal: int(unix.SIGKILL)}
	select {
	case ws := <-ended:
		if t != nil {
			t.finish(s.kill, o.Kill)
		}
		if ws.Signaled() {
			return Status{Signal: int(ws.Signal())}
		}
		return Status{Code: ws.ExitStatus()}
	case <-timeout:
		status.TimedOut = true
	case <-s.kill:
	case <-o.Kill:
	}
	killTree(allEnded)
	if t != nil && status.TimedOut {
		t.finish(s.kill, o.Kill)
	}
	return status
}

// errKilled says that Kill came first.
var errKilled = errors.New("killed before it was started")

func (s *Supervisor) start(o Options, t *terminal) (pid int, err error) {
	if s.err != nil {
		return 0, s.err
	}
	select {
	case <-s.kill: // for the last program: one for this has left a mark
	default:
	}
	if takeMark(o.ID) {
		return 0, errKilled
	}
	if err := os.Chdir(filepath.Join("/", o.Dir)); err != nil {
		return 0, fmt.Errorf("working directory: %w", err)
	}
	name, err := lookPath(o.Args[0], o.Env)
	if err != nil {
		return 0, err
	}
	streams := []uintptr{uintptr(o.Streams[0]), uintptr(o.Streams[1]), uintptr(o.Streams[2])}
	if t != nil {
		fd := t.pty.Program.Fd()
		streams = []uintptr{fd, fd, fd}
	}
	// Not os.StartProcess, which first starts a process to find out what pidfds can do.
	pid, err = syscall.ForkExec(name, o.Args, &syscall.ProcAttr{
		Env:   o.Env,
		Files: streams,
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: t != nil},
	})
	if err != nil {
		return 0, &os.PathError{Op: "run", Path: name, Err: err}
	}
	return pid, nil
}

// spareThreads makes the Go runtime have n idle threads. Once the program has used up the limit of
// processes, a runtime that needs a thread more would end this process instead of the program.
func spareThreads(n int) {
	var ready sync.WaitGroup
	ready.Add(n)
	release := make(chan struct{})
	for range n {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread() // unlocked before the goroutine ends, the thread stays
			ready.Done()
			<-release
		}()
	}
	ready.Wait()
	close(release)
}

// reap collects every child. It sends the program's own status to ended, and closes allEnded when
// no child is left.
func reap(pid int, ended chan<- unix.WaitStatus, allEnded chan<- struct{}) {
	defer close(allEnded)
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil: // ECHILD
			return
		case got == pid:
			ended <- ws
		}
	}
}

// lookPath finds an executable as execvp does. It is not exec.LookPath, which refuses to find a
// program in the current directory and drags package os/exec into a binary that starts often.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	path := ""
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			path = value
		}
	}
	err := error(unix.ENOENT)
	for dir := range strings.SplitSeq(path, ":") {
		file := filepath.Join(dir, name)
		if dir == "" {
			file = "./" + name
		}
		e := executable(file)
		if e == nil {
			return file, nil
		}
		if errors.Is(e, unix.EACCES) {
			err = unix.EACCES
		}
	}
	return "", fmt.Errorf("%s: %w in PATH", name, err)
}

func executable(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return &os.PathError{Op: "run", Path: name, Err: unix.EACCES}
	}
	return nil
}

// scratch lists directories that are writable in most images; the first that works is taken.
var scratch = [...]string{"/dev/shm", "/run", "/tmp"}

func writeStatus(id string, s Status) error {
	content, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return writeScratch("status", id, content)
}

// TakeStatus returns the status that the run left, and removes it. ok is false if it left none.
func TakeStatus(id string) (s Status, ok bool) {
	for _, dir := range scratch {
		name := scratchName(dir, "status", id)
		content, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		_ = os.Remove(name)
		return s, json.Unmarshal(content, &s) == nil
	}
	return s, false
}

// takeMark tells whether Kill has marked the run, and removes the mark.
func takeMark(id string) bool {
	for _, dir := range scratch {
		if os.Remove(scratchName(dir, "kill", id)) == nil {
			return true
		}
	}
	return false
}

func writeScratch(kind, id string, content []byte) error {
	var errs []error
	for _, dir := range scratch {
		err := os.WriteFile(scratchName(dir, kind, id), content, 0o600)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func scratchName(dir, kind, id string) string {
	return filepath.Join(dir, ".aether-"+kind+"-"+id)
}
