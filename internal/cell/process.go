package cell

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/aethervm/aether/internal/tail"
)

// argv0 is the name under which a program is a cell.
const argv0 = "aether-cell"

// process is a cell's process.
type process struct {
	pid int
	way way
	cmd *exec.Cmd
	err error // of waiting

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
	var err error
	onParent(func() { err = cmd.Start() })
	if err != nil {
		return nil, fmt.Errorf("start a process: %w", err)
	}
	return &process{cmd: cmd, pid: cmd.Process.Pid}, nil
}

// parents are threads that start processes. The kernel sends the death signal when the *thread* that made a process ends, so
// these never do. There are as many as there were starts at one time: one for each process would take as much memory as all
// else that the owner has of a cell.
var parents struct {
	mu   sync.Mutex
	free []chan func()
}

// onParent calls do on a thread that lives as long as this process.
func onParent(do func()) {
	parents.mu.Lock()
	var p chan func()
	if last := len(parents.free) - 1; last >= 0 {
		p, parents.free = parents.free[last], parents.free[:last]
	}
	parents.mu.Unlock()
	if p == nil {
		p = make(chan func())
		go func() {
			runtime.LockOSThread()
			for do := range p {
				do()
			}
		}()
	}
	done := make(chan struct{})
	p <- func() {
		do()
		close(done)
	}
	<-done
	parents.mu.Lock()
	defer parents.mu.Unlock()
	parents.free = append(parents.free, p)
}

// environment is all that a cell gets of one: settings of the Go runtime. The collector is to keep
// its heap small, which a huge page would not be; and the runtime is not to look into control groups,
// which a cell does not see.
func environment(vcpus int) []string {
	return []string{
		// A vCPU is a thread that is nearly always in a system call. One more runs the rest. To have one place for Go code until the
		// machine is built would spare 64 KiB, and take 6 % more time on a busy host.
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

// kill ends the process, and does not wait for it. The Go runtime keeps a pidfd, so that no other process can be hit.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d: %w", p.pid, err)
	}
	return nil
}

// wait returns when the process has ended and all that it wrote has been read. It is called once, when the end is near: it
// takes a thread.
func (p *process) wait() { p.err = p.cmd.Wait() }

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
