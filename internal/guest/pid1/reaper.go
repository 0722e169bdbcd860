package pid1

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// reaper collects every child of PID 1: the programs that the agent starts, which somebody waits
// for, and the orphans of the whole machine. Nobody else may wait for a process.
type reaper struct {
	signals chan os.Signal

	mu      sync.Mutex
	waiting map[int]chan<- unix.WaitStatus
	// after is called when something was collected.
	after func()
}

func newReaper(after func()) *reaper {
	r := &reaper{signals: make(chan os.Signal, 1), waiting: map[int]chan<- unix.WaitStatus{}, after: after}
	signal.Notify(r.signals, unix.SIGCHLD)
	return r
}

// run collects children as they end. It does not return.
func (r *reaper) run() {
	for range r.signals {
		for r.collect() {
		}
		r.after()
	}
}

// collect collects one child that has ended. Signals merge, so it is called until none is left.
func (r *reaper) collect() bool {
	// The lock is held while a program is started, so that it is known before it is collected.
	r.mu.Lock()
	defer r.mu.Unlock()
	var status unix.WaitStatus
	pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
	if errors.Is(err, unix.EINTR) {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	if ch, ok := r.waiting[pid]; ok {
		delete(r.waiting, pid)
		ch <- status
	}
	return true
}

// start starts a program and returns a channel that will receive its status.
func (r *reaper) start(path string, args []string, attr *syscall.ProcAttr) (<-chan unix.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, args, attr)
	if err != nil {
		return nil, err
	}
	ch := make(chan unix.WaitStatus, 1)
	r.waiting[pid] = ch
	return ch, nil
}
