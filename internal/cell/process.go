package cell

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/aethervm/aether/internal/tail"
)

// argv0 is the name under which a program is a cell.
const argv0 = "aether-cell"

// process is a cell's process.
type process struct {
	pid    int
	way    way
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has been waited for and all that it wrote has been read
	err    error         // of waiting; set before

	// What it has said, for the goroutine that reads it and for who comes after it.
	confined bool
	said     *endMessage
}

// begin starts a process that will be a cell. console and messages keep what it writes.
func begin(attributes syscall.SysProcAttr, files []*os.File, vcpus int, console *console, messages *tail.Tail) (*process, error) {
	// Whatever has become of the file's name, this is the file.
	cmd := exec.Command(fmt.Sprintf("/proc/self/fd/%d", programFile))
	cmd.Args = []string{argv0}
	cmd.Env = environment(vcpus)
	cmd.Dir = "/"
	cmd.ExtraFiles = files
	cmd.Stdout, cmd.Stderr = console, messages
	cmd.WaitDelay = time.Second // it has no children that could hold the pipes
	cmd.SysProcAttr = &attributes
	if err := roomToStart(files[0]); err != nil {
		return nil, fmt.Errorf("start a process: %w", err)
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends the death signal when the *thread* that made the process ends, so that
		// thread is kept until the process has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start a process: %w", err)
	}
	p.pid = cmd.Process.Pid
	return p, nil
}

// environment is all that a cell gets of one: settings of the Go runtime. The collector is to keep
// its heap small, which a huge page would not be; and the runtime is not to look into control groups,
// which a cell does not see.
func environment(vcpus int) []string {
	return []string{
		// A vCPU is a thread that is nearly always in a system call. One more runs the rest.
		fmt.Sprintf("GOMAXPROCS=%d", min(runtime.NumCPU(), vcpus+1)),
		"GODEBUG=containermaxprocs=0,updatemaxprocs=0,disablethp=1",
		"GOGC=50",
	}
}

// ownPID is the process's ID as it sees it.
func (p *process) ownPID() int {
	if p.way.pids {
		return 1
	}
	return p.pid
}

// kill ends the process and waits for it. The Go runtime keeps a pidfd, so that no other process can
// be hit.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d: %w", p.pid, err)
	}
	<-p.exited
	return nil
}

// how says how a process has ended.
func (p *process) how() string {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled() && status.Signal() == syscall.SIGSYS:
		return "killed for a system call that its filter does not allow"
	case p.err != nil:
		return p.err.Error()
	}
	return "exit status 0"
}

// console keeps the end of what the guest writes, and passes all of it on.
type console struct {
	keep *tail.Tail
	sink atomic.Pointer[io.Writer] // of the guest; nil if nobody wants it
}

// ReadFrom is what reads the console's pipe; see [tail.Tail.ReadFrom].
func (c *console) ReadFrom(r io.Reader) (int64, error) { return tail.Copy(c, r) }

// Write never fails: were it to fail, the console's pipe would not be read any more.
func (c *console) Write(p []byte) (int, error) {
	_, _ = c.keep.Write(p)
	if sink := c.sink.Load(); sink != nil {
		_, _ = (*sink).Write(p)
	}
	return len(p), nil
}
