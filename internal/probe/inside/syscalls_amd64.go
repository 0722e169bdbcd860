package inside

import "golang.org/x/sys/unix"

// Arguments that are always refused.
const (
	badPointer = 1           // never mapped: EFAULT
	badFD      = ^uintptr(0) // -1: EBADF
	badPID     = ^uintptr(0) // -1: ESRCH
	badFlags   = 0x40000000  // a bit that none of the calls knows: EINVAL
	badNumber  = 0x7fffffff  // no such command, request, type or size: EINVAL
	atFDCWD    = ^uintptr(99)
)

// calls are those that container escapes, kernel exploits and the default filters of container
// engines are about. The comment says what refuses the arguments, where it is not obvious; where
// possible it is something that the kernel looks at only after it has found the caller privileged,
// so that EPERM means that the caller is not.
var calls = []call{
	{family: "code", name: "bpf", number: unix.SYS_BPF, args: [6]uintptr{badNumber, 0, 0}},
	{family: "code", name: "init_module", number: unix.SYS_INIT_MODULE, args: [6]uintptr{badPointer, 0, badPointer}}, // shorter than an ELF header
	{family: "code", name: "finit_module", number: unix.SYS_FINIT_MODULE, args: [6]uintptr{badFD, badPointer, badFlags}},
	{family: "code", name: "delete_module", number: unix.SYS_DELETE_MODULE, args: [6]uintptr{badPointer, 0}},
	{family: "code", name: "kexec_load", number: unix.SYS_KEXEC_LOAD, args: [6]uintptr{0, badNumber, badPointer, badFlags}}, // more segments than may be
	{family: "code", name: "kexec_file_load", number: unix.SYS_KEXEC_FILE_LOAD, args: [6]uintptr{badFD, badFD, 0, 0, badFlags}},

	{family: "observe", name: "perf_event_open", number: unix.SYS_PERF_EVENT_OPEN, args: [6]uintptr{badPointer, 0, 0, badFD, 0}},
	{family: "observe", name: "ptrace", number: unix.SYS_PTRACE, args: [6]uintptr{badNumber, badPID}},
	{family: "observe", name: "process_vm_readv", number: unix.SYS_PROCESS_VM_READV, args: [6]uintptr{badPID, 0, 0, 0, 0, badFlags}},
	{family: "observe", name: "process_vm_writev", number: unix.SYS_PROCESS_VM_WRITEV, args: [6]uintptr{badPID, 0, 0, 0, 0, badFlags}},
	{family: "observe", name: "process_madvise", number: unix.SYS_PROCESS_MADVISE, args: [6]uintptr{badFD, 0, 0, 0, badFlags}},
	{family: "observe", name: "process_mrelease", number: unix.SYS_PROCESS_MRELEASE, args: [6]uintptr{badFD, badFlags}},
	{family: "observe", name: "pidfd_getfd", number: unix.SYS_PIDFD_GETFD, args: [6]uintptr{badFD, badFD, badFlags}},
	{family: "observe", name: "kcmp", number: unix.SYS_KCMP, args: [6]uintptr{badPID, badPID, badNumber}},
	{family: "observe", name: "lookup_dcookie", number: unix.SYS_LOOKUP_DCOOKIE, args: [6]uintptr{badFD, badPointer, 0}},
	{family: "observe", name: "syslog", number: unix.SYS_SYSLOG, args: [6]uintptr{badNumber, 0, 0}},
	{family: "observe", name: "fanotify_init", number: unix.SYS_FANOTIFY_INIT, args: [6]uintptr{badFlags, badFlags}},
	{family: "observe", name: "fanotify_mark", number: unix.SYS_FANOTIFY_MARK, args: [6]uintptr{badFD, badFlags, 0, badFD, 0}},

	// A move without a source: refused after the privilege check.
	{family: "mount", name: "mount", do: func() error { return unix.Mount("", "/", "", unix.MS_MOVE, "") }},
	// Not a mount point: refused after the privilege check.
	{family: "mount", name: "umount2", do: func() error { return unix.Unmount("/proc/self/status", unix.UMOUNT_NOFOLLOW) }},
	{family: "mount", name: "pivot_root", number: unix.SYS_PIVOT_ROOT, args: [6]uintptr{badPointer, badPointer}},
	{family: "mount", name: "fsopen", number: unix.SYS_FSOPEN, args: [6]uintptr{badPointer, badFlags}},
	{family: "mount", name: "fsconfig", number: unix.SYS_FSCONFIG, args: [6]uintptr{badFD, badNumber}},
	{family: "mount", name: "fsmount", number: unix.SYS_FSMOUNT, args: [6]uintptr{badFD, badFlags, badNumber}},
	{family: "mount", name: "fspick", number: unix.SYS_FSPICK, args: [6]uintptr{badFD, badPointer, badFlags}},
	{family: "mount", name: "move_mount", number: unix.SYS_MOVE_MOUNT, args: [6]uintptr{badFD, badPointer, badFD, badPointer, badFlags}},
	{family: "mount", name: "open_tree", number: unix.SYS_OPEN_TREE, args: [6]uintptr{badFD, badPointer, badFlags}},
	{family: "mount", name: "mount_setattr", number: unix.SYS_MOUNT_SETATTR, args: [6]uintptr{badFD, badPointer, badFlags, badPointer, 0}},
	{family: "mount", name: "listmount", number: unix.SYS_LISTMOUNT, args: [6]uintptr{badPointer, badPointer, 0, badFlags}},
	{family: "mount", name: "statmount", number: unix.SYS_STATMOUNT, args: [6]uintptr{badPointer, badPointer, 0, badFlags}},

	{family: "namespace", name: "setns", number: unix.SYS_SETNS, args: [6]uintptr{badFD, 0}},
	{family: "namespace", name: "unshare", number: unix.SYS_UNSHARE, args: [6]uintptr{unix.CLONE_NEWUSER | 1}}, // the lowest bits are no flags
	{family: "namespace", name: "clone3", number: unix.SYS_CLONE3, args: [6]uintptr{badPointer, 0}},            // smaller than its first version
	{family: "namespace", name: "name_to_handle_at", number: unix.SYS_NAME_TO_HANDLE_AT, args: [6]uintptr{badFD, badPointer, badPointer, badPointer, badFlags}},
	{family: "namespace", name: "open_by_handle_at", number: unix.SYS_OPEN_BY_HANDLE_AT, args: [6]uintptr{atFDCWD, badPointer, 0}},

	{family: "async", name: "io_uring_setup", number: unix.SYS_IO_URING_SETUP, args: [6]uintptr{0, badPointer}},
	{family: "async", name: "io_uring_enter", number: unix.SYS_IO_URING_ENTER, args: [6]uintptr{badFD, 0, 0, badFlags}},
	{family: "async", name: "io_uring_register", number: unix.SYS_IO_URING_REGISTER, args: [6]uintptr{badFD, badNumber}},
	{family: "async", name: "io_setup", number: unix.SYS_IO_SETUP, args: [6]uintptr{0, badPointer}},
	{family: "async", name: "userfaultfd", number: unix.SYS_USERFAULTFD, args: [6]uintptr{badFlags | 1}}, // 1: for user-mode faults only
	{family: "async", name: "vmsplice", number: unix.SYS_VMSPLICE, args: [6]uintptr{badFD, 0, 0, badFlags}},

	{family: "keys", name: "add_key", number: unix.SYS_ADD_KEY, args: [6]uintptr{badPointer, badPointer, 0, 0, badNumber}},
	{family: "keys", name: "request_key", number: unix.SYS_REQUEST_KEY, args: [6]uintptr{badPointer, badPointer, 0, badNumber}},
	{family: "keys", name: "keyctl", number: unix.SYS_KEYCTL, args: [6]uintptr{badNumber}},

	{family: "memory", name: "mbind", number: unix.SYS_MBIND, args: [6]uintptr{1, 0, badNumber, 0, 0, badFlags}}, // not page-aligned
	{family: "memory", name: "set_mempolicy", number: unix.SYS_SET_MEMPOLICY, args: [6]uintptr{badNumber, 0, 0}},
	{family: "memory", name: "set_mempolicy_home_node", number: unix.SYS_SET_MEMPOLICY_HOME_NODE, args: [6]uintptr{1, 0, badNumber, badFlags}},
	{family: "memory", name: "migrate_pages", number: unix.SYS_MIGRATE_PAGES, args: [6]uintptr{badPID, 0, 0, 0}},
	{family: "memory", name: "move_pages", number: unix.SYS_MOVE_PAGES, args: [6]uintptr{badPID, 0, 0, 0, 0, badFlags}},
	{family: "memory", name: "memfd_secret", number: unix.SYS_MEMFD_SECRET, args: [6]uintptr{badFlags}},
	{family: "memory", name: "modify_ldt", number: unix.SYS_MODIFY_LDT, args: [6]uintptr{0, badPointer, 0}}, // reads nothing of this process's own table
	{family: "memory", name: "shmget", number: unix.SYS_SHMGET, args: [6]uintptr{0x7ae7e500, 0, 0}},         // does not create
	{family: "memory", name: "msgget", number: unix.SYS_MSGGET, args: [6]uintptr{0x7ae7e500, 0}},            // does not create

	{family: "admin", name: "reboot", number: unix.SYS_REBOOT, args: [6]uintptr{0, 0, badNumber}}, // both magic numbers are wrong
	{family: "admin", name: "swapon", number: unix.SYS_SWAPON, args: [6]uintptr{badPointer, 0}},
	{family: "admin", name: "swapoff", number: unix.SYS_SWAPOFF, args: [6]uintptr{badPointer}},
	{family: "admin", name: "acct", number: unix.SYS_ACCT, args: [6]uintptr{badPointer}},
	{family: "admin", name: "quotactl", number: unix.SYS_QUOTACTL, args: [6]uintptr{badNumber, badPointer}},
	{family: "admin", name: "quotactl_fd", number: unix.SYS_QUOTACTL_FD, args: [6]uintptr{badFD, badNumber}},
	{family: "admin", name: "sethostname", number: unix.SYS_SETHOSTNAME, args: [6]uintptr{badPointer, badNumber}},     // too long
	{family: "admin", name: "setdomainname", number: unix.SYS_SETDOMAINNAME, args: [6]uintptr{badPointer, badNumber}}, // too long
	{family: "admin", name: "settimeofday", number: unix.SYS_SETTIMEOFDAY, args: [6]uintptr{badPointer, 0}},
	{family: "admin", name: "adjtimex", do: func() error { _, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_TICK}); return err }}, // a tick of zero
	{family: "admin", name: "iopl", number: unix.SYS_IOPL, args: [6]uintptr{badNumber}},
	{family: "admin", name: "ioperm", number: unix.SYS_IOPERM, args: [6]uintptr{badNumber, badNumber, 1}}, // past the last port

	// The type is out of range, which is refused before a protocol is looked for.
	{family: "sockets", name: "socket(AF_ALG)", number: unix.SYS_SOCKET, args: [6]uintptr{unix.AF_ALG, 15}},
	{family: "sockets", name: "socket(AF_KEY)", number: unix.SYS_SOCKET, args: [6]uintptr{unix.AF_KEY, 15}},
	{family: "sockets", name: "socket(AF_PACKET)", number: unix.SYS_SOCKET, args: [6]uintptr{unix.AF_PACKET, 15}},
	{family: "sockets", name: "socket(AF_TIPC)", number: unix.SYS_SOCKET, args: [6]uintptr{unix.AF_TIPC, 15}},
	{family: "sockets", name: "socket(AF_VSOCK)", number: unix.SYS_SOCKET, args: [6]uintptr{unix.AF_VSOCK, 15}},
	{family: "sockets", name: "ioctl(TIOCSTI)", number: unix.SYS_IOCTL, args: [6]uintptr{badFD, unix.TIOCSTI, badPointer}},

	{family: "rare", name: "nfsservctl", number: unix.SYS_NFSSERVCTL, args: [6]uintptr{badNumber}},
	{family: "rare", name: "personality", number: unix.SYS_PERSONALITY, args: [6]uintptr{0xffffffff}}, // asks only
	{family: "rare", name: "sysfs", number: unix.SYS_SYSFS, args: [6]uintptr{badNumber}},
	{family: "rare", name: "uselib", number: unix.SYS_USELIB, args: [6]uintptr{badPointer}},
	{family: "rare", name: "ustat", number: unix.SYS_USTAT, args: [6]uintptr{0, badPointer}},
	{family: "rare", name: "landlock_create_ruleset", number: unix.SYS_LANDLOCK_CREATE_RULESET, args: [6]uintptr{badPointer, 0, badFlags}},
}
