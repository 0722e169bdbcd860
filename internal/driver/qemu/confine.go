package qemu

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
)

// Each machine of root runs as a user of its own, so that one that breaks out of QEMU finds neither
// the host's files nor another machine's process within reach. The range is one that neither login
// users nor container engines are given.
const (
	firstUID = 0x6ae70000
	uidCount = 1 << 16
)

// identity is a user that no other machine on this host has. Nil: QEMU runs as the caller.
type identity struct {
	uid  uint32
	mark *net.UnixConn
}

// takeIdentity reserves a user until release, or until this process ends. The mark is a socket with
// an abstract name: the kernel gives such a name to one at a time, and it leaves nothing behind.
func takeIdentity() (*identity, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	start := rand.IntN(uidCount)
	for i := range uidCount {
		uid := uint32(firstUID + (start+i)%uidCount)
		name := fmt.Sprintf("@aether-qemu-uid-%d", uid)
		mark, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: name})
		if err == nil {
			return &identity{uid: uid, mark: mark}, nil
		}
	}
	return nil, fmt.Errorf("no free user for QEMU in %d to %d", firstUID, firstUID+uidCount-1)
}

func (i *identity) release() {
	if i != nil {
		_ = i.mark.Close()
	}
}

// confinement is how QEMU's process is started: it dies with its owner; as root it gets its own
// user, no groups but those of the accelerator, and its own network (none), IPC and host name.
// QEMU's own seccomp filter, which -sandbox asks for, also sets no_new_privs.
func confinement(i *identity, groups []uint32) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	if i == nil {
		return attr
	}
	attr.Credential = &syscall.Credential{Uid: i.uid, Gid: i.uid, Groups: groups}
	attr.Cloneflags = syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET
	return attr
}

// limits is a command line that runs what follows it with bounds on what it can take of the host.
// They are set by a program in between, which then becomes QEMU: to set those of a process of
// another user needs a capability (CAP_SYS_RESOURCE) that root in a container often lacks.
func limits(i *identity, c machineConfig) ([]string, error) {
	prlimit, err := findTool("prlimit", "util-linux")
	if err != nil {
		return nil, err
	}
	args := []string{
		prlimit, "--core=0", "--nofile=256", "--memlock=65536",
		// A saved state is all that it ever writes to a file.
		fmt.Sprintf("--fsize=%d", (c.memoryMiB+kernelMiB+64)<<20),
	}
	if i != nil {
		// The count is that of the user, who has no other process.
		args = append(args, fmt.Sprintf("--nproc=%d", c.vcpus+64))
	}
	return append(args, "--"), nil
}
