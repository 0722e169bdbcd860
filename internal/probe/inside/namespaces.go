package inside

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/probe/finding"
)

func namespaceProbes() []entry {
	return []entry{
		{finding.Probe{Name: "namespaces.user", Scope: finding.ScopeKernel,
			Question: "Can guest code make a user namespace, and mount in it?",
			Better:   "No.",
			Worse:    "Yes: in it every program has all capabilities, which opens large parts of the kernel to exploits."},
			func() answer { return namespaces(true, unix.CLONE_NEWUSER|unix.CLONE_NEWNS) }},
		{finding.Probe{Name: "namespaces.mount", Scope: finding.ScopeKernel,
			Question: "Can guest code make a mount namespace without a user namespace, and mount in it?",
			Better:   "No.",
			Worse:    "Yes: it has CAP_SYS_ADMIN."},
			func() answer { return namespaces(false, unix.CLONE_NEWNS) }},
		{finding.Probe{Name: "namespaces.container", Scope: finding.ScopeKernel,
			Question: "Can guest code start a container of its own (user, mount, PID, network, IPC and UTS namespaces, with a new /proc)?",
			Better:   "No: there is one wall, and it is the sandbox's.",
			Worse:    "Yes: with the host's kernel behind it, this is its whole container code in a guest's hands."},
			func() answer {
				return namespaces(true, unix.CLONE_NEWUSER|unix.CLONE_NEWNS|unix.CLONE_NEWPID|unix.CLONE_NEWNET|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS)
			}},
	}
}

// namespaces starts a child in new namespaces. They, and what it mounts in them, end with it.
func namespaces(mapped bool, flags uintptr) answer {
	attr := &syscall.SysProcAttr{Cloneflags: flags}
	if mapped {
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	lines, err := runChild(attr, childNested)
	var notStarted *startError
	switch {
	case errors.As(err, &notStarted):
		// ENOSPC and EUSERS: the number of namespaces is limited to none; EINVAL: the kernel has none.
		if denied(err) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EUSERS) || errors.Is(err, unix.EINVAL) {
			return no(err.Error())
		}
		return unknown(err)
	case err != nil && !endedBadly(err):
		return unknown(err)
	}
	done := strings.Join(lines, ", ")
	if done == "" {
		done = "nothing else"
	}
	return yes("namespaces are made; in them: " + done)
}

// nestedChild runs in a mount namespace of its own and says what it can mount there. Mounts are
// first cut off from the namespace that they were copied from; where that fails nothing is mounted.
func nestedChild(stdout io.Writer) error {
	if inInitialMounts() {
		return errors.New("not in a namespace of its own")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, dir := range []string{"/tmp", "/mnt", "/dev"} {
		if unix.Mount("probe", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=64k") == nil {
			if _, err := fmt.Fprintln(stdout, "tmpfs mounted"); err != nil {
				return err
			}
			break
		}
	}
	if unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "") == nil {
		if _, err := fmt.Fprintln(stdout, "proc mounted"); err != nil {
			return err
		}
	}
	return nil
}

// inInitialMounts guards against the command being started by hand: it tells whether this process
// shares its mount namespace with its parent.
func inInitialMounts() bool {
	mine, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return false // no /proc of ours: a new PID namespace, so a new mount namespace too
	}
	parent, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid()))
	return err == nil && mine == parent
}
