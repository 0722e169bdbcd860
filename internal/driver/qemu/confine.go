package qemu

import (
	"fmt"
	"syscall"

	"github.com/aethervm/aether/internal/identity"
)

// confinement is how QEMU's process is started: it dies with its owner; as root it gets a user of its
// own, no groups but those of the accelerator, and its own network (none), IPC and host name.
// QEMU's own seccomp filter, which -sandbox asks for, also sets no_new_privs.
func confinement(i *identity.Identity, groups []uint32) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	if i == nil {
		return attr
	}
	attr.Credential = &syscall.Credential{Uid: i.UID(), Gid: i.UID(), Groups: groups}
	attr.Cloneflags = syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET
	return attr
}

// limits is a command line that runs what follows it with bounds on what it can take of the host.
// They are set by a program in between, which then becomes QEMU: to set those of a process of
// another user needs a capability (CAP_SYS_RESOURCE) that root in a container often lacks.
func limits(i *identity.Identity, c machineConfig) ([]string, error) {
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
