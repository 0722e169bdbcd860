package failcalls

import (
	"errors"
	"os"
	"runtime"
	"structs"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's structures, linux/seccomp.h.

type notification struct {
	_      structs.HostLayout
	id     uint64
	pid    uint32 // of the thread
	flags  uint32
	number int32
	arch   uint32
	ip     uint64
	args   [6]uint64
}

type response struct {
	_     structs.HostLayout
	id    uint64
	value int64
	err   int32 // negative
	flags uint32
}

// install puts a filter on all threads. Its listener stays open in this process, at an exec it closes. A call that was
// asked about is not interrupted by a signal that does not kill: it would be made, and asked about, twice.
func install(filter []unix.SockFilter) error {
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH |
		unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	program := &unix.SockFprog{Len: uint16(len(filter)), Filter: unsafe.SliceData(filter)}
	// The kernel reads the program before the call returns.
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(program)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

// receive waits for the next call.
func receive(listener *os.File) (n notification, err error) {
	fds := []unix.PollFd{{Fd: int32(listener.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return n, err
		}
		if err == nil {
			break
		}
	}
	if fds[0].Revents&unix.POLLIN == 0 {
		return n, errOver
	}
	// The kernel writes to n before the call returns.
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, listener.Fd(), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n)))
	runtime.KeepAlive(listener)
	if errno != 0 {
		return n, os.NewSyscallError("receive a notification", errno)
	}
	return n, nil
}

// answer has a call go on, or fail.
func answer(listener *os.File, id uint64, fail syscall.Errno) error {
	r := &response{id: id}
	if fail == 0 {
		r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	} else {
		r.err = -int32(fail)
	}
	// The kernel reads r before the call returns.
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, listener.Fd(), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(r)))
	runtime.KeepAlive(listener)
	if errno != 0 {
		return os.NewSyscallError("answer a notification", errno)
	}
	return nil
}
