package kvm

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrKicked is what Run returns when Kick made it stop.
var ErrKicked = errors.New("kvm: vCPU was kicked")

// VCPU is a virtual processor. Run and the register methods are for one goroutine at a time; Kick
// and Close may be called at any time.
type VCPU struct {
	fd *fd
	vm *VM

	run    sync.Mutex // held during Run; Close takes it before it unmaps
	shared []byte     // the mapping that page views; nil once unmapped

	kick sync.Mutex // orders Kick against the start and end of Run and against Close
	page *runPage   // nil once unmapped
	tid  int        // thread that is in Run; 0 if none
}

// Run lets the guest run until it exits for a reason that the caller must handle, or until Kick,
// which gives ErrKicked. The guest's thread is the calling goroutine's, locked for the duration;
// lock it for longer to keep one thread for each vCPU, as the kernel prefers.
func (c *VCPU) Run() (Exit, error) {
	c.run.Lock()
	defer c.run.Unlock()
	if c.shared == nil {
		return Exit{}, fmt.Errorf("KVM_RUN on %s: %w", c.fd.name, os.ErrClosed)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c.setThread(unix.Gettid())
	// Kick must not signal this thread once the goroutine may leave it.
	defer c.setThread(0)

	for {
		_, err := c.fd.ioctlValue("KVM_RUN", ioRun, 0)
		switch {
		case err == nil:
			return decodeExit(c.page, c.shared), nil
		case errors.Is(err, unix.EINTR):
			// Either Kick, which has left its mark, or some other signal of the Go runtime.
			if atomic.AndUint32(&c.page.control, ^uint32(controlImmediateExit))&controlImmediateExit != 0 {
				return Exit{}, ErrKicked
			}
		case errors.Is(err, unix.EAGAIN):
			// "KVM_RUN: EAGAIN": the vCPU is being set up by another thread; documented to be
			// retried.
			runtime.Gosched()
		default:
			return Exit{}, err
		}
	}
}

// SetMMIOData is the answer to an MMIO exit that is a read; the next Run gives it to the guest. It is
// for the goroutine that calls Run.
func (c *VCPU) SetMMIOData(data []byte) {
	c.run.Lock()
	defer c.run.Unlock()
	if c.shared != nil {
		copy(c.page.exit[mmioDataOffset:mmioDataOffset+8], data)
	}
}

func (c *VCPU) setThread(tid int) {
	c.kick.Lock()
	defer c.kick.Unlock()
	c.tid = tid
}

// Kick makes the Run in progress return ErrKicked soon; if none is in progress, the next one does
// so at once. Several kicks before a Run returns are one.
//
// The order matters: first the mark, then the signal. A thread that is about to enter the guest
// sees the mark (KVM_CAP_IMMEDIATE_EXIT); one that is in the guest is thrown out by the signal. The
// signal is the one that the Go runtime uses to preempt, so there is a handler for it that does no
// harm, and KVM_RUN is never restarted after a signal.
func (c *VCPU) Kick() {
	c.kick.Lock()
	defer c.kick.Unlock()
	if c.page == nil {
		return
	}
	atomic.OrUint32(&c.page.control, controlImmediateExit)
	if c.tid != 0 {
		_ = unix.Tgkill(os.Getpid(), c.tid, unix.SIGURG) // it is there: setThread(0) needs c.kick
	}
}

// Close stops a Run in progress, waits for it, and frees the vCPU. It is idempotent.
func (c *VCPU) Close() error {
	c.Kick()
	c.run.Lock()
	defer c.run.Unlock()
	c.kick.Lock()
	defer c.kick.Unlock()
	var err error
	if c.shared != nil {
		c.page = nil
		if err = unix.Munmap(c.shared); err != nil {
			err = fmt.Errorf("unmap %s: %w", c.fd.name, err)
		}
		c.shared = nil
	}
	return errors.Join(err, c.fd.close())
}
