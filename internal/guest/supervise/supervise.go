// Package supervise runs one program inside a sandbox so that it can be ended with everything that
// it has started.
//
// It is for systems whose control plane can start a program but cannot end one: Docker's exec has
// no kill at all, and runsc's reaches a single process. The supervisor is a child subreaper, so a
// descendant that daemonizes becomes its child instead of escaping to PID 1, and it can kill until
// no child is left. The program gets the supervisor's own standard streams: no data passes through.
//
// When the program ends by itself the supervisor ends too, and what the program left running goes
// on as a child of PID 1: background jobs are wanted.
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
	"time"

	"golang.org/x/sys/unix"
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
	Dir     string        // working directory; empty: "/"
	Timeout time.Duration // 0: none
}

// Run runs the program with this process's standard streams and environment and returns the exit
// code that this process shall end with. It may be called once in a process.
func Run(o Options) int {
	status := run(o)
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

func run(o Options) Status {
	// Before anything is started, so that nothing can escape.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return Status{CannotRun: fmt.Sprintf("become child subreaper: %v", err)}
	}
	kill := make(chan os.Signal, 1)
	signal.Notify(kill, unix.SIGTERM)
	if takeMark(o.ID) { // Kill came first
		return Status{Signal: int(unix.SIGKILL)}
	}
	if o.Dir == "" {
		o.Dir = "/"
	}
	if err := os.Chdir(o.Dir); err != nil {
		return Status{CannotRun: fmt.Sprintf("working directory: %v", err)}
	}
	name, err := lookPath(o.Args[0])
	if err != nil {
		return Status{CannotRun: err.Error()}
	}
	spareThreads(3)
	child, err := os.StartProcess(name, o.Args, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   &unix.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return Status{CannotRun: err.Error()}
	}
	// The supervisor must not keep the streams open for the reader on the other side.
	for _, f := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		_ = f.Close()
	}

	ended := make(chan unix.WaitStatus, 1)
	allEnded := make(chan struct{})
	go reap(child.Pid, ended, allEnded)

	var timeout <-chan time.Time
	if o.Timeout > 0 {
		timeout = time.After(o.Timeout)
	}
	status := Status{Signal: int(unix.SIGKILL)}
	select {
	case ws := <-ended:
		if ws.Signaled() {
			return Status{Signal: int(ws.Signal())}
		}
		return Status{Code: ws.ExitStatus()}
	case <-timeout:
		status.TimedOut = true
	case <-kill:
	}
	killTree(allEnded)
	return status
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
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	err := error(unix.ENOENT)
	for dir := range strings.SplitSeq(os.Getenv("PATH"), ":") {
		path := filepath.Join(dir, name)
		if dir == "" {
			path = "./" + name
		}
		e := executable(path)
		if e == nil {
			return path, nil
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
