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

	"github.com/aethervm/aether/internal/identity"
	"github.com/aethervm/aether/internal/tail"
)

// argv0 is the name under which a program is a cell.
const argv0 = "aether-cell"

// process is the process of a cell, or of several that share it, with what is made for it and freed when it has ended: a user, a
// control group, the socket over which it is told how to confine itself.
type process struct {
	id               string
	program          *os.File
	vcpus, memoryMiB int // of each of its virtual machines
	places           int // for how many it is, of those that share it; 0 for a single one
	trial            trial
	identity         *identity.Identity
	group            *group
	link             *link // of the only cell, or the one over which others get theirs
	messages         *tail.Tail
	confinement      Confinement // complete once begin has returned
	confined         bool        // it has said how; for the goroutine that serves the link
	pid              int         // 0 until it runs
	way              way
	cmd              *exec.Cmd
	err              error // of waiting
	reaping          sync.Once
	ended            chan struct{} // closed when it has been waited for

	mu      sync.Mutex
	closed  bool                   // it gets no more cells
	taken   int                    // places
	users   int                    // cells, and a Shared that is not closed
	cause   error                  // why it was killed, or was about to be, where that was not the end of all use
	charges map[fileID]layerCharge // layers that are charged to the group
	allowed int64                  // what the cells are allowed in the group beside them, in bytes
}

func newProcess(cfg SpareConfig, places int, try trial) *process {
	return &process{
		id: cfg.ID, program: cfg.Program, vcpus: cfg.VCPUs, memoryMiB: cfg.MemoryMiB, places: places, trial: try,
		messages: tail.New(messagesTail), ended: make(chan struct{}), users: 1,
	}
}

// run starts the process. output gets what it writes, and may be nil.
func (p *process) run(attributes syscall.SysProcAttr, files []*os.File, output io.Writer) error {
	// Whatever has become of the file's name, this is the file.
	cmd := exec.Command(fmt.Sprintf("/proc/self/fd/%d", programFile))
	cmd.Args = []string{argv0}
	cmd.Env = environment(p.vcpus * max(p.places, 1))
	cmd.Dir = "/"
	cmd.ExtraFiles = files
	cmd.Stdout, cmd.Stderr = output, p.messages
	cmd.WaitDelay = time.Second // it has no children that could hold the pipes
	cmd.SysProcAttr = &attributes
	if err := roomToStart(files[0]); err != nil {
		return fmt.Errorf("start a process: %w", err)
	}
	var err error
	onParent(func() { err = cmd.Start() })
	if err != nil {
		return fmt.Errorf("start a process: %w", err)
	}
	p.cmd, p.pid = cmd, cmd.Process.Pid
	return nil
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

// kill ends the process, if it has begun, and does not wait for it. The Go runtime keeps a pidfd, so that no other process can be hit.
func (p *process) kill() error {
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d: %w", p.pid, err)
	}
	return nil
}

// condemn ends the process for what it has done, or not done. The first cause is the one that counts.
func (p *process) condemn(cause error) {
	p.mu.Lock()
	if p.cause == nil {
		p.cause = cause
	}
	p.mu.Unlock()
	_ = p.kill()
}

// reap returns when the process has ended and all that it wrote has been read. It is called when the end is near: it takes a
// thread.
func (p *process) reap() {
	p.reaping.Do(func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	})
}

// hasEnded tells whether the process has ended.
func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// leave is called by each user once, and tells whether it is the last one, who is to free the process.
func (p *process) leave() (last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users--
	return p.users == 0
}

// free ends the process and gives back what was made for it.
func (p *process) free() error {
	errs := []error{p.kill()}
	if p.link != nil {
		errs = append(errs, p.link.close())
	}
	if p.cmd != nil {
		<-p.ended
	}
	p.identity.Release()
	if p.group != nil {
		errs = append(errs, p.group.remove())
	}
	return errors.Join(errs...)
}

// how says how a process has ended.
func (p *process) how() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled() && status.Signal() == syscall.SIGSYS:
		return "killed for a system call that its filter does not allow"
	case p.cause != nil:
		return p.cause.Error()
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
