package cell

import (
	"errors"
	"fmt"
	"runtime"
	"structs"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capHeader and capData are the kernel's struct __user_cap_header_struct and __user_cap_data_struct.
type capHeader struct {
	_       structs.HostLayout
	version uint32
	pid     int32
}

type capData struct {
	_                                 structs.HostLayout
	effective, permitted, inheritable uint32
}

// clearCapabilities empties the capability sets of all threads.
func clearCapabilities() error {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	header := &capHeader{version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &[2]capData{}
	pinner.Pin(header)
	pinner.Pin(data)
	// Both are pinned, so that the numbers stay their addresses for all threads' calls.
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(data)), 0)
	if errno != 0 {
		return fmt.Errorf("capset: %w", errno)
	}
	return nil
}

// sockFprog is the kernel's struct sock_fprog.
type sockFprog struct {
	_      structs.HostLayout
	len    uint16
	filter *byte
}

// installFilter installs a seccomp filter, in the kernel's form, on all threads. The kernel brings them
// in line with this one, no_new_privs included (SECCOMP_FILTER_FLAG_TSYNC).
func installFilter(program []byte) error {
	if len(program)%8 != 0 || len(program)/8 > 4096 {
		return errors.New("the filter is malformed")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	// The kernel reads both before the call returns; the first is kept by the call's argument, the
	// second by the first.
	prog := &sockFprog{len: uint16(len(program) / 8), filter: unsafe.SliceData(program)}
	tid, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(prog)))
	runtime.KeepAlive(program)
	switch {
	case errno != 0:
		return fmt.Errorf("seccomp: %w", errno)
	case tid != 0:
		return fmt.Errorf("seccomp: thread %d has a filter of its own", tid)
	}
	return nil
}
