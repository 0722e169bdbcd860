// Package caps names Linux capabilities and says which of them matter to isolation.
package caps

import (
	"fmt"
	"strconv"
)

// Set is a set of capabilities, one bit each, as in /proc/PID/status.
type Set uint64

// names in the order of their numbers (capabilities(7)).
var names = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
	"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
	"IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
	"SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
	"LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
	"WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

// Numbers of the capabilities in Harmless.
const (
	chown          = 0
	dacOverride    = 1
	fowner         = 3
	fsetid         = 4
	kill           = 5
	setgid         = 6
	setuid         = 7
	setpcap        = 8
	netBindService = 10
	sysChroot      = 18
	auditWrite     = 29
	setfcap        = 31
)

// Harmless are the capabilities that work on the guest's own files, users and processes only, as
// package managers and ordinary servers need them. What is not in it reaches the kernel, devices,
// raw networks or other processes. Docker's default adds MKNOD and NET_RAW, which are not harmless.
const Harmless Set = 1<<chown | 1<<dacOverride | 1<<fowner | 1<<fsetid | 1<<kill | 1<<setgid | 1<<setuid |
	1<<setpcap | 1<<netBindService | 1<<sysChroot | 1<<auditWrite | 1<<setfcap

// Parse reads a set in hexadecimal.
func Parse(s string) (Set, error) {
	n, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("capability set %q: %w", s, err)
	}
	return Set(n), nil
}

// Names lists the capabilities in s in the order of their numbers; unknown ones are numbers.
func (s Set) Names() []string {
	var list []string
	for i := range 64 {
		switch {
		case s>>i&1 == 0:
		case i < len(names):
			list = append(list, names[i])
		default:
			list = append(list, strconv.Itoa(i))
		}
	}
	return list
}
