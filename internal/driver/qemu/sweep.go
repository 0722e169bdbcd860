package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/lease"
)

// Sweep is sandbox.Driver's. QEMU processes die with their owner, so that it is mostly directories
// that are left; a process whose owner died in the instant of its birth is found by its name.
func (d *Driver) Sweep(ctx context.Context) (int, error) {
	root, err := hostdir.RunOf(System)
	if err != nil {
		return 0, err
	}
	return lease.Sweep(ctx, root, sweepLease)
}

func sweepLease(ctx context.Context, l *lease.Lease) (int, error) {
	entries, err := os.ReadDir(l.Dir)
	if err != nil {
		l.Abandon()
		return 0, fmt.Errorf("sweep lease %s: %w", l.ID, err)
	}
	machines := 0
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		machines++
		if err := killByName(ctx, machineName(e.Name())); err != nil {
			l.Abandon()
			return 0, fmt.Errorf("sweep lease %s: %w", l.ID, err)
		}
	}
	return machines, l.Release()
}

// killByName kills the QEMU processes that were started under a name and returns when they are
// gone.
func killByName(ctx context.Context, name string) error {
	mark := []byte("\x00-name\x00" + name + "\x00")
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, path := range cmdlines {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		// The descriptor is taken first: what it names is then what the command line is of.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if cmdline, err := os.ReadFile(path); err == nil && bytes.Contains(cmdline, mark) {
			err = killAndWait(ctx, fd)
			if err != nil {
				return errors.Join(fmt.Errorf("kill %s: %w", name, err), unix.Close(fd))
			}
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	return nil
}

func killAndWait(ctx context.Context, pidfd int) error {
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	for ctx.Err() == nil {
		poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int((100 * time.Millisecond).Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
	return ctx.Err()
}
