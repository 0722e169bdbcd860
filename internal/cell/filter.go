package cell

import (
	"fmt"
	"math"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/kvm"
)

// threadFlags are the flags with which the Go runtime makes threads (runtime/os_linux.go: cloneFlags;
// sys_linux_amd64.s: clone). A process, or a namespace, would need others.
const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM |
	unix.CLONE_THREAD | unix.CLONE_SETTLS

// setVMA is what the Go runtime calls prctl for: it names its mappings.
const setVMA = 0x53564d41 // PR_SET_VMA

// rule allows a system call if one of its arguments has, under a mask, one of some values. The kernel
// takes no more than 32 bits of those arguments that are compared here, or they are flags.
type rule struct {
	number   uint32
	argument uint32
	mask     uint32
	values   []uint32
}

// rules are the system calls that a cell needs of which not all is allowed.
func rules(pid int) []rule {
	const all = ^uint32(0)
	requests := make([]uint32, 0, 64)
	for _, r := range kvm.Requests() {
		requests = append(requests, uint32(r))
	}
	requests = append(requests, guestmem.PagemapScan) // which pages a branch is to keep
	return []rule{
		{unix.SYS_IOCTL, 1, all, requests},
		// What is writable stays without execution, and what is executable is there.
		{unix.SYS_MMAP, 2, unix.PROT_EXEC, []uint32{0}},
		{unix.SYS_CLONE, 0, all, []uint32{threadFlags}},
		// Preemption, and the kicks of vCPUs.
		{unix.SYS_TGKILL, 0, all, []uint32{uint32(pid)}},
		{unix.SYS_PRCTL, 0, all, []uint32{setVMA}},
		{unix.SYS_FCNTL, 1, all, []uint32{
			unix.F_GETFL, unix.F_SETFL, unix.F_GETFD, unix.F_SETFD, unix.F_DUPFD_CLOEXEC, unix.F_ADD_SEALS, unix.F_GET_SEALS,
		}},
	}
}

// calls are the system calls that a cell needs once it is confined and that are allowed as a whole:
// those of the Go runtime, of a guest's memory, and of the descriptors that it was given.
func calls() []uint32 {
	return []uint32{
		// The Go runtime: threads, memory, time, signals.
		unix.SYS_FUTEX, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETTID, unix.SYS_GETPID,
		unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME,
		unix.SYS_GETTIMEOFDAY, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN,
		unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_GETRANDOM,
		unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_UNAME,
		// Descriptors that it has.
		unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_PWRITE64,
		unix.SYS_PREADV, unix.SYS_PWRITEV, unix.SYS_CLOSE, unix.SYS_FSTAT, unix.SYS_LSEEK,
		unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_SHUTDOWN,
		// A guest's memory.
		unix.SYS_MEMFD_CREATE, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE,
	}
}

// refused are system calls that a library makes in passing and can do without. They get an error; all
// others, and those of another architecture, end the process.
func refused() []uint32 { return []uint32{unix.SYS_OPENAT} } // time zones

// filterFor returns the system call filter of a process that sees itself under the given ID, in the
// kernel's form. What runs most often is decided first; of calls that are allowed as a whole the kernel
// remembers it (seccomp_cache_prepare).
func filterFor(pid int) ([]byte, error) {
	const numberOffset, archOffset, argsOffset = 0, 4, 16 // of struct seccomp_data
	var (
		allow = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
		deny  = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EACCES)}
		kill  = bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}
	)
	equal := func(v uint32, then bpf.Instruction) []bpf.Instruction {
		return []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipFalse: 1}, then}
	}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: archOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AUDIT_ARCH_X86_64, SkipTrue: 1},
		kill,
		bpf.LoadAbsolute{Off: numberOffset, Size: 4},
	}
	for _, r := range rules(pid) {
		body := []bpf.Instruction{
			bpf.LoadAbsolute{Off: argsOffset + 8*r.argument, Size: 4},
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: r.mask},
		}
		for _, v := range r.values {
			body = append(body, equal(v, allow)...)
		}
		body = append(body, kill)
		if len(body) > math.MaxUint8 {
			return nil, fmt.Errorf("build the system call filter: too many values for call %d", r.number)
		}
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: r.number, SkipFalse: uint8(len(body))})
		program = append(program, body...)
	}
	for _, number := range calls() {
		program = append(program, equal(number, allow)...)
	}
	for _, number := range refused() {
		program = append(program, equal(number, deny)...)
	}
	raw, err := bpf.Assemble(append(program, kill))
	if err != nil {
		return nil, fmt.Errorf("build the system call filter: %w", err)
	}
	var b []byte
	for _, i := range raw {
		b = append(b, byte(i.Op), byte(i.Op>>8), i.Jt, i.Jf, byte(i.K), byte(i.K>>8), byte(i.K>>16), byte(i.K>>24))
	}
	return b, nil
}
