package inside

import (
	"unsafe" //nolint:depguard // seccomp(2) takes a pointer; the linter knows *_unsafe.go only, which no test can be called

	"golang.org/x/sys/unix"
)

// installFilter refuses system calls in each of the ways that filters have.
func installFilter() error {
	const (
		retAllow = 0x7fff0000
		retErrno = 0x00050000
		retKill  = 0x80000000 // the process

		offNumber = 0
		offArg0   = 16
	)
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	ret := func(value uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value} }
	ifEqual := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
	}
	filter := []unix.SockFilter{
		load(offNumber),
		ifEqual(unix.SYS_BPF, 1), ret(retErrno | uint32(unix.EPERM)),
		ifEqual(unix.SYS_IO_URING_SETUP, 1), ret(retErrno | uint32(unix.ENOSYS)),
		ifEqual(unix.SYS_ADD_KEY, 1), ret(retKill),
		ifEqual(unix.SYS_PERSONALITY, 1), ret(retKill),
		ifEqual(unix.SYS_SOCKET, 3), load(offArg0), ifEqual(unix.AF_ALG, 1), ret(retErrno | uint32(unix.EACCES)),
		ret(retAllow),
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// The kernel copies the program during the call.
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}
