// Package failcalls has system calls of a process fail at a chosen moment, for tests of what happens then. Nothing in the
// process that is tested knows of it: the kernel asks the test about each call (seccomp's user notification), and the test
// lets it go on or has it fail. The processes that it starts are asked about as well.
//
// The process calls [Offer] before anything else; the test, its parent, [Attach].
package failcalls

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Call is a system call that a process is about to make.
type Call struct {
	// PID is the process.
	PID int
	// Number is that of the call, Args what it is given.
	Number uint32
	Args   [6]uint64
}

// MapPipe is how many descriptors a process loses that cannot start another one in namespaces of its own: those of the pipe
// over which package syscall tells the new process of its user. It does not close them where there is no process
// (exec_linux.go, forkAndExecInChild).
const MapPipe = 2

// Types of ioctl that are asked about.
const (
	kvmType     = 0xae
	kvmRun      = 0xae80 // is not: it is made all the time
	pagemapScan = 0xc0606610
)

// Offer has the kernel ask about the system calls of these numbers that this process makes from now on, and those
// that it starts; of ioctl only about those of KVM and of page maps. Until somebody attaches, they wait. It needs root.
func Offer(numbers ...uint32) error {
	const numberOffset, archOffset, firstArg, secondArg = 0, 4, 16, 24 // of struct seccomp_data
	allow, ask := bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}, bpf.RetConstant{Val: unix.SECCOMP_RET_USER_NOTIF}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: archOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AUDIT_ARCH_X86_64, SkipTrue: 1},
		allow,
		bpf.LoadAbsolute{Off: numberOffset, Size: 4},
	}
	for _, n := range numbers {
		switch n {
		case unix.SYS_IOCTL:
			program = append(program,
				bpf.JumpIf{Cond: bpf.JumpEqual, Val: n, SkipFalse: 8},
				bpf.LoadAbsolute{Off: secondArg, Size: 4},
				bpf.JumpIf{Cond: bpf.JumpEqual, Val: kvmRun, SkipTrue: 5},
				bpf.JumpIf{Cond: bpf.JumpEqual, Val: pagemapScan, SkipTrue: 3},
				bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xff00},
				bpf.JumpIf{Cond: bpf.JumpEqual, Val: kvmType << 8, SkipTrue: 1},
				allow,
				ask,
				allow)
		case unix.SYS_CLONE: // not about threads: the Go runtime cannot do without
			program = append(program,
				bpf.JumpIf{Cond: bpf.JumpEqual, Val: n, SkipFalse: 4},
				bpf.LoadAbsolute{Off: firstArg, Size: 4},
				bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.CLONE_THREAD, SkipFalse: 1},
				allow,
				ask)
		default:
			program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: n, SkipFalse: 1}, ask)
		}
	}
	raw, err := bpf.Assemble(append(program, allow))
	if err != nil {
		return fmt.Errorf("offer system calls: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	if err := install(filter); err != nil {
		return fmt.Errorf("offer system calls: %w", err)
	}
	return nil
}

// Caller decides about the calls of a process. Its methods may be called concurrently.
type Caller struct {
	pid      int
	listener *os.File
	over     chan struct{} // closed when no process is left to be asked about

	mu    sync.Mutex
	match func(Call) bool
	after int // how many calls that match are let go on
	errno syscall.Errno
	seen  int
	fault error
}

// Attach begins to decide about the calls of a process that has called Offer, or will: it waits for that.
func Attach(pid int) (*Caller, error) {
	listener, err := find(pid)
	if err != nil {
		return nil, fmt.Errorf("attach to process %d: %w", pid, err)
	}
	c := &Caller{pid: pid, listener: listener, over: make(chan struct{})}
	go c.serve()
	return c, nil
}

// find takes a copy of the process's listener.
func find(pid int) (*os.File, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(pidfd) }()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			return nil, err
		}
		for _, link := range links {
			if to, err := os.Readlink(link); err != nil || !strings.Contains(to, "seccomp") {
				continue
			}
			number, err := strconv.Atoi(filepath.Base(link))
			if err != nil {
				return nil, err
			}
			fd, err := unix.PidfdGetfd(pidfd, number, 0)
			if err != nil {
				return nil, os.NewSyscallError("pidfd_getfd", err)
			}
			return os.NewFile(uintptr(fd), "listener"), nil
		}
	}
	return nil, errors.New("it has offered nothing")
}

// Fail has the k-th call from now on, from 1, for which match returns true fail with errno. It is called for one call
// after the other.
func (c *Caller) Fail(match func(Call) bool, k int, errno syscall.Errno) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.match, c.after, c.errno, c.seen = match, k-1, errno, 0
}

// Stop has no more calls fail. It tells whether one has, since Fail, and how many have matched. The error is that of
// a decision that could not be made.
func (c *Caller) Stop() (failed bool, matched int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	failed, matched = c.seen > c.after && c.match != nil, c.seen
	c.match = nil
	return failed, matched, c.fault
}

// Own tells whether a call is one of the process itself, and not of one that it has started.
func (c *Caller) Own(call Call) bool { return call.PID == c.pid }

// Close waits until the processes have ended.
func (c *Caller) Close() error {
	<-c.over
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.fault, c.listener.Close())
}

func (c *Caller) serve() {
	defer close(c.over)
	for {
		n, err := receive(c.listener)
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINTR): // it was killed
			continue
		case errors.Is(err, errOver):
			return
		case err == nil:
			err = answer(c.listener, n.id, c.decide(n))
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			c.mu.Lock()
			c.fault = errors.Join(c.fault, err)
			c.mu.Unlock()
			return
		}
	}
}

// errOver: no process is left.
var errOver = errors.New("no process is left")

// decide returns the error of a call, 0 for none.
func (c *Caller) decide(n notification) syscall.Errno {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.match == nil {
		return 0
	}
	call := Call{PID: processOf(int(n.pid)), Number: uint32(n.number), Args: n.args}
	if !c.match(call) {
		return 0
	}
	c.seen++
	if c.seen == c.after+1 {
		return c.errno
	}
	return 0
}

// processOf is the process of a thread; 0 if it is gone.
func processOf(tid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "Tgid:"); ok {
			pid, _ := strconv.Atoi(strings.TrimSpace(text))
			return pid
		}
	}
	return 0
}
