package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentsandbox"
	"github.com/aethervm/aether/internal/identity"
	"github.com/aethervm/aether/internal/qmp"
	"github.com/aethervm/aether/internal/tail"
)

// machine is a QEMU process with its monitor and the socket that leads to the guest's agent. It
// implements agentsandbox.Machine.
type machine struct {
	dir      string // its own, in the lease
	pid      int
	identity *identity.Identity
	console  *tail.Tail // what the guest's kernel says
	messages *tail.Tail // what QEMU says
	monitor  *qmp.Client

	process *os.Process
	exited  chan struct{} // closed when the process has been waited for
	exitErr error         // set before

	closing sync.Once
	err     error
}

const agentSocket = "agent"

// startMachine starts QEMU and connects to its monitor. The guest is booting, or waiting to be
// resumed, when it returns. When ctx ends, what was begun is undone.
func startMachine(ctx context.Context, dir string, c machineConfig, guest *guestFiles, disk *os.File, saved *savedState) (*machine, error) {
	m := &machine{dir: dir, console: tail.New(agentsandbox.TailSize), messages: tail.New(agentsandbox.TailSize), exited: make(chan struct{})}
	if err := m.start(ctx, c, guest, disk, saved); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *machine) start(ctx context.Context, c machineConfig, guest *guestFiles, disk *os.File, saved *savedState) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.Mkdir(m.dir, 0o711); err != nil {
		return err
	}
	var err error
	if m.identity, err = identity.Take(); err != nil {
		return err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	agent, err := listen(filepath.Join(m.dir, agentSocket))
	if err != nil {
		return errors.Join(err, ours.Close(), theirs.Close())
	}
	files := []*os.File{theirs, agent, guest.Image, guest.Initrd, disk}
	if saved != nil {
		files = append(files, saved.file)
	}
	err = m.run(c, files, saved != nil)
	// QEMU has them now. Were they still open here, its death would not end the connections.
	if err := errors.Join(err, theirs.Close(), agent.Close()); err != nil {
		return errors.Join(err, ours.Close())
	}
	if m.monitor, err = qmp.New(ctx, ours); err != nil {
		return m.Explain(err)
	}
	return nil
}

// run starts the process.
func (m *machine) run(c machineConfig, files []*os.File, restored bool) error {
	argv, err := limits(m.identity, c)
	if err != nil {
		return err
	}
	argv = append(append(argv, c.binary), c.arguments(restored)...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.ExtraFiles = files
	cmd.Stdout, cmd.Stderr = m.console, m.messages
	var groups []uint32
	if c.accelerator == accelKVM {
		groups = kvmGroups()
	}
	cmd.SysProcAttr = confinement(m.identity, groups)

	started := make(chan error)
	go func() {
		// The kernel sends the death signal when the *thread* that made the process ends, so that
		// thread is kept until the process has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			m.exitErr = cmd.Wait()
			close(m.exited)
		}
	}()
	if err := <-started; err != nil {
		close(m.exited)
		return fmt.Errorf("start QEMU: %w", err)
	}
	m.process, m.pid = cmd.Process, cmd.Process.Pid
	return nil
}

// Explain adds what QEMU and the guest said last to an error that stems from their end.
func (m *machine) Explain(err error) error {
	select {
	case <-m.exited:
	case <-time.After(time.Second): // the socket is closed a moment before the process has ended
		return err
	}
	if said := agentsandbox.EndOf(m.messages, 4); said != "" {
		err = fmt.Errorf("%w; QEMU: %s", err, said)
	}
	if m.exitErr != nil {
		err = fmt.Errorf("%w; %w", err, m.exitErr)
	}
	if said := agentsandbox.EndOf(m.console, 6); said != "" {
		err = fmt.Errorf("%w; console: %s", err, said)
	}
	return err
}

// Exited is closed when the process has been waited for.
func (m *machine) Exited() <-chan struct{} { return m.exited }

// dial opens a connection to the agent's port. The port serves one at a time.
func (m *machine) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", filepath.Join(m.dir, agentSocket))
}

// Kill ends the process and waits for it.
func (m *machine) Kill() {
	if m.process.Kill() == nil {
		<-m.exited
	}
}

// Close kills the process and removes what it had. It is idempotent.
func (m *machine) Close() error {
	m.closing.Do(func() {
		var errs []error
		if m.process != nil {
			if err := m.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				errs = append(errs, fmt.Errorf("kill QEMU: %w", err))
			} else {
				<-m.exited
			}
		}
		if m.monitor != nil {
			errs = append(errs, m.monitor.Close())
		}
		m.identity.Release()
		m.err = errors.Join(append(errs, os.RemoveAll(m.dir))...)
	})
	return m.err
}

// socketPair returns two connected sockets, the second as a file to be inherited.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the monitor's sockets: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "monitor"), os.NewFile(uintptr(fds[1]), "monitor")
	conn, err := net.FileConn(ours) // which duplicates it
	if err := errors.Join(err, ours.Close()); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}

// listen makes a listening socket at path, as a file to be inherited. Only the caller's user can
// connect to it.
func listen(path string) (*os.File, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.Close() }() // the file below stays open
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	return l.File()
}
