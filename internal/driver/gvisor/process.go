package gvisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// process is a process of the host, held by a pidfd: it never stands for another process that got
// the same PID.
type process struct {
	pid int
	fd  *os.File
}

// openProcess takes hold of a process that is running now.
func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	return &process{pid: pid, fd: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// ended tells whether the process has ended, reaped or not. It is true after close.
func (p *process) ended() bool {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return true
	}
	ended := true
	_ = conn.Control(func(fd uintptr) { // an error: closed
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		ended = err == nil && n > 0
	})
	return ended
}

// kill sends SIGKILL.
func (p *process) kill() error {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var killErr error
	err = conn.Control(func(fd uintptr) { killErr = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	if errors.Is(killErr, unix.ESRCH) {
		killErr = nil
	}
	return errors.Join(err, killErr)
}

func (p *process) close() error { return p.fd.Close() }

// killMarked sends SIGKILL to every process that has marker, a path of ours with a random name in
// it, on its command line, and tells whether there was one. This process itself is spared.
func killMarked(marker string) bool {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return false
	}
	found := false
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() || !marked(pid, marker) {
			continue
		}
		p, err := openProcess(pid)
		if err != nil { // gone
			continue
		}
		if marked(pid, marker) { // the pidfd is of the same process as before
			found = true
			_ = p.kill() // gone
		}
		_ = p.close()
	}
	return found
}

func marked(pid int, marker string) bool {
	cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return err == nil && bytes.Contains(cmdline, []byte(marker))
}

// isGofer tells a sandbox's gofer from its sentry and stubs, by the name that runsc gives it.
func isGofer(pid int) bool {
	cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return err == nil && bytes.HasPrefix(cmdline, []byte("runsc-gofer\x00"))
}
