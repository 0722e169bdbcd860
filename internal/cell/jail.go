package cell

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	landlocksys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// errCgo is why a layer is missing in a build with cgo, such as one for the race detector: rights belong
// to threads, and Go knows not all of them there.
var errCgo = errors.New("this build has cgo, with which it cannot be applied to all threads")

// confine takes from the process all that it does not need from now on. What cannot be taken is said in
// the layers, which are in the order of the constants.
func confine(m *confineMessage) Confinement {
	list := Confinement{enterRoot(m.Mounts), limit(m)}
	capabilities, land := dropRights(m), lockLand()
	filter := filterCalls(m.Filter)
	return append(list, setNoNewPrivs(filter.Applied), capabilities, land, filter)
}

// setNoNewPrivs is the last step, since the filter does it as well, and faster.
func setNoNewPrivs(filtered bool) Layer {
	if filtered {
		return Layer{Name: LayerNoNewPrivs, Applied: true}
	}
	return layer(LayerNoNewPrivs, "", onAllThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0))
}

// enterRoot changes to a root directory that has nothing in it and never will.
func enterRoot(mounts bool) Layer {
	if !mounts {
		return Layer{Name: LayerRoot, Detail: "needs a mount namespace"}
	}
	err := func() error {
		// Nothing that happens here is to be seen outside.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		const place = "/proc" // any directory will do; this one is everywhere
		const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
		if err := unix.Mount("aether-cell", place, "tmpfs", flags|unix.MS_RDONLY, "size=4k,nr_inodes=1,mode=0555"); err != nil {
			return fmt.Errorf("mount an empty directory: %w", err)
		}
		if err := unix.Chdir(place); err != nil {
			return err
		}
		// The old root is put on top of the new one and taken away from there, so that no directory is
		// needed for it: pivot_root(2), "pivot_root(".", ".")".
		if err := unix.PivotRoot(".", "."); err != nil {
			return fmt.Errorf("pivot_root: %w", err)
		}
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount the old root: %w", err)
		}
		return unix.Chdir("/")
	}()
	return layer(LayerRoot, "empty, read-only", err)
}

// limit sets resource limits.
func limit(m *confineMessage) Layer {
	const files = 2048 // of which a guest with all flows open has most
	guests := max(m.Places, 1)
	limits := []struct {
		what     string
		resource int
		value    uint64
	}{
		{"open files", unix.RLIMIT_NOFILE, files * uint64(guests)},
		{"core size", unix.RLIMIT_CORE, 0},
		{"locked memory", unix.RLIMIT_MEMLOCK, 64 << 10},
		// The guest's memory is a file.
		{"file size", unix.RLIMIT_FSIZE, uint64(m.MemoryMiB+16) << 20},
		{"message queues", unix.RLIMIT_MSGQUEUE, 0},
	}
	if m.OwnUser {
		// The count is that of the user, who has no other process.
		limits = append(limits, struct {
			what     string
			resource int
			value    uint64
		}{"tasks", unix.RLIMIT_NPROC, uint64(maxTasks(m.VCPUs, m.Places))})
	}
	var done []string
	var errs []error
	for _, l := range limits {
		// Both of the pair: it is not to be raised again. Where there is a lower one, that holds.
		var now syscall.Rlimit
		if err := syscall.Getrlimit(l.resource, &now); err == nil {
			l.value = min(l.value, now.Max)
		}
		if err := syscall.Setrlimit(l.resource, &syscall.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.what, err))
			continue
		}
		done = append(done, fmt.Sprintf("%s %d", l.what, l.value))
	}
	return layer(LayerLimits, strings.Join(done, ", "), errors.Join(errs...))
}

// become changes the user, for good. Package syscall does so on all threads. A change of user takes the
// death signal away.
func become(user int) error {
	err := syscall.Setgroups(nil)
	if err == nil {
		err = syscall.Setresgid(user, user, user)
	}
	if err == nil {
		err = syscall.Setresuid(user, user, user)
	}
	if err == nil {
		err = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	}
	if err != nil {
		return fmt.Errorf("become user %d: %w", user, err)
	}
	return nil
}

// Securebits of capabilities(7), each with its lock: root's user ID gives no capabilities, neither by
// running a program nor by a change of user, and none can be kept or made ambient.
const secureBits = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<5 | 1<<6 | 1<<7

// dropRights gives up all capabilities, and the possibility to get any, and the user root.
//
// A system call on all threads stops the Go world, which takes 50 us where processors are idle and 1 ms
// where they are not. There are 41 capabilities to be taken from the bounding set, one by one. It bounds
// what running a program can give; no_new_privs and the securebits forbid that already, and in a
// user namespace of its own none would count outside. So there the set stays.
func dropRights(m *confineMessage) Layer {
	how := "none; in its own user namespace"
	err := onAllThreads(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, secureBits, 0)
	switch {
	case errors.Is(err, unix.EPERM): // not root, nor ever: there is nothing to give up
		how, err = "none", nil
	case err == nil && !m.UserNamespace:
		how, err = "none, bounding set empty", clearBounding()
	}
	if m.User != 0 {
		if err := become(int(m.User)); err != nil {
			// It would be root. No cell is better than that.
			panic(err)
		}
	}
	return layer(LayerCapabilities, how, errors.Join(err, clearCapabilities()))
}

// clearBounding empties the bounding set. That needs a capability itself.
func clearBounding() error {
	for c := uintptr(0); ; c++ {
		err := onAllThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0)
		if errors.Is(err, unix.EINVAL) { // one more than the kernel knows
			return nil
		}
		if err != nil {
			return fmt.Errorf("capability %d: %w", c, err)
		}
	}
}

// lockLand has Landlock deny all that it can deny. It has no exceptions: what the process needs is open.
func lockLand() Layer {
	if usesCgo() {
		return layer(LayerLandlock, "", errCgo)
	}
	abi, err := landlocksys.LandlockGetABIVersion()
	if err != nil {
		return layer(LayerLandlock, "", fmt.Errorf("the kernel has no Landlock: %w", err))
	}
	// BestEffort is what this kernel knows of the newest.
	err = landlock.V11.BestEffort().Restrict()
	return layer(LayerLandlock, fmt.Sprintf("ABI %d, nothing allowed", abi), err)
}

// filterCalls installs the system call filter on all threads, those to come included, and with it
// no_new_privs, which it needs.
func filterCalls(program []byte) Layer {
	switch {
	case usesCgo():
		return layer(LayerSeccomp, "", errors.New("this build has cgo, whose system calls are not known"))
	case len(program) == 0:
		return layer(LayerSeccomp, "", errors.New("the owner has sent no filter"))
	}
	return layer(LayerSeccomp, fmt.Sprintf("%d instructions", len(program)/8), installFilter(program))
}

// usesCgo tells whether there may be threads that Go does not know.
func usesCgo() bool {
	return errors.Is(onAllThreads(unix.SYS_GETPID, 0, 0, 0), unix.ENOTSUP)
}

// onAllThreads makes a system call on every thread.
func onAllThreads(trap, a1, a2, a3 uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(trap, a1, a2, a3, 0, 0, 0)
	switch errno {
	case 0:
		return nil
	case syscall.ENOTSUP:
		return errors.Join(errCgo, errno)
	}
	return errno
}
