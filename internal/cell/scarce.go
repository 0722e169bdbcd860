package cell

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// scarce tells whether an error means that the host has not enough of something at the moment: memory, descriptors, space,
// processes. It is then no property of the host, which would be lived with.
func scarce(err error) bool {
	for _, e := range []error{unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.ENOSPC, unix.EAGAIN, unix.ENOBUFS, unix.EDQUOT, unix.ETOOMANYREFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// scarcePatience is how long a message is tried again for which the kernel has no memory, or whose user has too many
// descriptors on their way.
const scarcePatience = time.Second

// insist repeats a send or receive for which the kernel has no memory: nobody could be told that it has failed.
func insist(call func() error) error {
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		err := call()
		again := errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ETOOMANYREFS)
		if !again || time.Since(begin) > scarcePatience {
			return err
		}
	}
}

// lacking returns the error of a layer that this host could apply if it had more of something.
func (c Confinement) lacking() error {
	for _, l := range c {
		if scarce(l.cause) {
			return fmt.Errorf("confine it, %s: %w", l.Name, l.cause)
		}
	}
	return nil
}

// startFiles is more than the descriptors that package os/exec takes for a moment to start a process.
const startFiles = 12

// roomToStart makes sure that there are descriptors to start a process. Where package syscall runs out of them in the middle, or
// of processes, it loses two: those of the pipe over which the process would be told of its user (exec_linux.go,
// forkAndExecInChild). An owner that has few left would have fewer each time. f is any file.
func roomToStart(f *os.File) (err error) {
	var taken []int
	for range startFiles {
		fd, e := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if e != nil {
			err = os.NewSyscallError("fcntl", e)
			break
		}
		taken = append(taken, fd)
	}
	for _, fd := range taken {
		_ = unix.Close(fd)
	}
	return err
}
