package cell

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/vmm"
)

// Main is the whole life of a cell's process, and does not return in one. In any other process it
// returns at once. It is to be called first in main.
func Main() {
	if len(os.Args) != 1 || os.Args[0] != argv0 {
		return
	}
	if err := live(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// attempts are what a test has a confined cell try, by name. There are none but in tests.
var attempts map[string]func() error

// live serves a virtual machine, or several, until they, or the owner, end.
func live() error {
	// Else its name would be that of a descriptor.
	_ = os.WriteFile("/proc/self/comm", []byte(argv0), 0)
	if err := unix.Close(programFile); err != nil {
		return fmt.Errorf("close the program: %w", err)
	}
	if err := closeInherited(); err != nil {
		return err
	}
	server, err := newServer(linkFile, newIdle())
	if err != nil {
		return err
	}
	how, id, err := server.awaitConfine()
	if err != nil {
		return err
	}
	server.vcpus, server.memoryMiB, server.console = how.VCPUs, how.MemoryMiB, os.Stdout
	device := os.NewFile(deviceFile, "KVM")
	if server.pages, err = os.Open(pagesPath); err != nil {
		return err
	}
	// From here on the process has nothing but what it has open.
	layers := confine(how)
	if err := server.send(message{Kind: kindConfined, Layers: layers}); err != nil {
		return err
	}
	if err := layers.lacking(); err != nil {
		return server.refuse(id, err)
	}
	if how.Attempt != "" {
		err := errors.New("no such attempt")
		if attempt := attempts[how.Attempt]; attempt != nil {
			err = attempt()
		}
		if err != nil {
			return server.refuse(id, err)
		}
	}
	if how.Places > 0 {
		if err := server.send(message{Kind: kindReply, ID: id}); err != nil {
			return err
		}
		return server.admitCells(device, how.Places)
	}
	// What is of no guest yet.
	server.shell, err = vmm.NewShell(device, how.VCPUs)
	if err := errors.Join(err, device.Close()); err != nil {
		return server.refuse(id, err)
	}
	if err := server.send(message{Kind: kindReply, ID: id}); err != nil {
		return err
	}
	// Here a spare waits. What it has is freed by its end.
	started, err := server.boot()
	if !started || err != nil {
		return err
	}
	end, err := server.serve()
	if end == nil || err != nil {
		return err
	}
	return server.send(message{Kind: kindEnded, End: end})
}

// closeInherited closes what the owner had open by accident of who has started it, and passed on without knowing. What this
// process has opened itself, as the Go runtime does, would be closed by an exec, and nothing that it was given is.
func closeInherited() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("close what was inherited: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= deviceFile {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if errors.Is(err, unix.EBADF) { // the list's own
			continue
		}
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			err = unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("close what was inherited: %w", err)
		}
	}
	return nil
}

// awaitConfine waits for the owner's first message.
func (s *server) awaitConfine() (*confineMessage, uint64, error) {
	m, _, err := s.receive(nil)
	switch {
	case errors.Is(err, io.EOF):
		return nil, 0, errors.New("the owner has ended before its first message")
	case err != nil:
		return nil, 0, fmt.Errorf("read the owner's first message: %w", err)
	case m.Kind != kindConfine:
		return nil, 0, fmt.Errorf("the owner's first message is %q", m.Kind)
	case m.Confine.Version != protocolVersion:
		return nil, 0, fmt.Errorf("the owner speaks version %d of the protocol, not %d", m.Confine.Version, protocolVersion)
	}
	return m.Confine, m.ID, nil
}

// awaitBoot waits for what is to be built. It returns nothing if the owner ends first, which is no error.
func (s *server) awaitBoot() (*bootMessage, uint64, []*os.File, error) {
	m, fds, err := s.receive(make([]byte, unix.CmsgSpace(4*maxBootFiles)))
	switch {
	case errors.Is(err, io.EOF):
		return nil, 0, nil, nil
	case err != nil:
		return nil, 0, nil, err
	case m.Kind != kindBoot:
		return nil, 0, nil, fmt.Errorf("the owner sends a %q message in place of boot", m.Kind)
	}
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		files[i] = os.NewFile(uintptr(fd), fmt.Sprintf("file %d", i))
	}
	if want := m.Boot.files(); len(files) != want { // the kernel drops those that this process has no descriptor for
		return nil, 0, nil, errors.Join(s.refuse(m.ID, fmt.Errorf("the cell can take %d of its %d files: %w", len(files), want, unix.EMFILE)), closeAll(files))
	}
	return m.Boot, m.ID, files, nil
}

// boot waits for what is to be built, builds and starts it. started is false if there is nothing to serve: the owner has ended, or
// was told why not.
func (s *server) boot() (started bool, err error) {
	boot, id, files, err := s.awaitBoot()
	if boot == nil || err != nil {
		return false, err
	}
	vm, err := s.build(boot, files)
	if err != nil {
		return false, s.refuse(id, err)
	}
	s.vm = vm
	// The reply comes first, since whatever follows it may come at any moment.
	if err := vm.Start(); err != nil {
		return false, s.refuse(id, err)
	}
	return true, s.send(message{Kind: kindReply, ID: id})
}

// build makes the virtual machine of the files that came for it, and closes what is not needed any more.
func (s *server) build(boot *bootMessage, files []*os.File) (_ *vmm.VM, err error) {
	if s.shell == nil {
		s.shell, err = vmm.NewShell(s.device, s.vcpus)
		_ = s.device.Close()
		if err != nil {
			return nil, errors.Join(err, closeAll(files))
		}
	}
	if boot.Branch {
		return s.buildCopy(boot, files)
	}
	cfg := vmm.Config{
		Shell: s.shell, Kernel: files[0],
		Cmdline: boot.Cmdline, VCPUs: s.vcpus, MemoryMiB: s.memoryMiB,
		Console: s.console, Pages: s.pages,
	}
	rest := files[1:]
	if boot.Initramfs {
		cfg.Initramfs, rest = rest[0], rest[1:]
	}
	cfg.Disks, s.disks = rest, rest
	if boot.Network != nil {
		cfg.Network = s.network(boot.Network)
	}
	vm, err := vmm.New(cfg)
	s.idle.loaded()
	for _, f := range []*os.File{cfg.Kernel, cfg.Initramfs} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil && vm != nil {
		err = errors.Join(err, vm.Close())
	}
	return vm, err
}
