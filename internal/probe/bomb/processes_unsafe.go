package bomb

import (
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tally is shared by all processes of a bomb.
type tally struct {
	// claimed counts a process before it is made, so that the limit holds; born, once it is.
	claimed, born, refused atomic.Int32
}

// processes forks, and so does every child, until there are limit of them besides the first, and goes on trying
// when the kernel refuses. At the deadline each ends by itself, whoever may have died before.
func processes(limit int, length time.Duration, stdout io.Writer) error {
	page, err := unix.Mmap(-1, 0, int(unsafe.Sizeof(tally{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map the shared tally: %w", err)
	}
	defer func() { _ = unix.Munmap(page) }()
	// A mapping is aligned to pages and does not move.
	count := (*tally)(unsafe.Pointer(unsafe.SliceData(page)))

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if multiply(count, int32(limit), monotonic()+int64(length)) {
		// A child: a copy of this thread alone, in which most of the Go runtime does not work.
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	_, err = fmt.Fprintf(stdout, "%d processes, %d times refused\n", count.born.Load(), count.refused.Load())
	return err
}

// multiply forks until the deadline and tells whether it returns in a child. Since children run in
// it too, it must not allocate, lock, or call what does; and it must not check the stack, since the check
// is where the runtime takes a thread that has run for long: a child that is born after such a request
// would wait for other threads for ever.
//
//go:nosplit
//go:norace
func multiply(count *tally, limit int32, deadline int64) (child bool) {
	pause := unix.Timespec{Nsec: int64(time.Millisecond)}
	for monotonic() < deadline {
		if count.claimed.Add(1) > limit {
			count.claimed.Add(-1)
			_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
			continue
		}
		// A fork: no flags but the signal that the parent gets. The runtime cannot be asked for
		// one, since it would run a program in the child.
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		switch {
		case errno != 0:
			count.claimed.Add(-1)
			count.refused.Add(1)
		case pid == 0:
			child = true
		default:
			count.born.Add(1)
		}
	}
	return child
}

// monotonic is the time in nanoseconds, by a system call: package time checks the stack.
//
//go:nosplit
//go:norace
func monotonic() int64 {
	var now unix.Timespec
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&now)), 0)
	return now.Sec*1_000_000_000 + now.Nsec
}
