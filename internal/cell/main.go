package cell

import (
	"errors"
	"fmt"
	"os"

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

// live serves one virtual machine until it, or the owner, ends.
func live() error {
	// Else its name would be that of a descriptor.
	_ = os.WriteFile("/proc/self/comm", []byte(argv0), 0)
	if err := unix.Close(programFile); err != nil {
		return fmt.Errorf("close the program: %w", err)
	}
	boot, id, err := firstMessage()
	if err != nil {
		return err
	}
	server, err := newServer(linkFile)
	if err != nil {
		return err
	}
	pages, err := os.Open(pagesPath)
	if err != nil {
		return err
	}
	// From here on the process has nothing but what it has open.
	layers := confine(boot)
	if err := server.send(message{Kind: kindConfined, Layers: layers}); err != nil {
		return err
	}
	if boot.Attempt != "" {
		err := errors.New("no such attempt")
		if attempt := attempts[boot.Attempt]; attempt != nil {
			err = attempt()
		}
		if err != nil {
			return server.send(message{Kind: kindReply, ID: id, Failure: fail(err)})
		}
	}
	vm, err := build(boot, server, pages)
	if err != nil {
		return server.send(message{Kind: kindReply, ID: id, Failure: fail(err)})
	}
	server.vm = vm
	// The reply comes first, since whatever follows it may come at any moment.
	if err := vm.Start(); err != nil {
		return server.send(message{Kind: kindReply, ID: id, Failure: fail(err)})
	}
	if err := server.send(message{Kind: kindReply, ID: id}); err != nil {
		return err
	}
	return server.serve()
}

// firstMessage waits for the owner's first message.
func firstMessage() (*bootMessage, uint64, error) {
	buf := make([]byte, maxMessage+1)
	n, err := unix.Read(linkFile, buf)
	if err != nil {
		return nil, 0, fmt.Errorf("read the owner's first message: %w", err)
	}
	if n == 0 {
		return nil, 0, errors.New("the owner has ended before its first message")
	}
	m, err := decode(buf[:n])
	switch {
	case err != nil:
		return nil, 0, err
	case m.Kind != kindBoot:
		return nil, 0, fmt.Errorf("the owner's first message is %q", m.Kind)
	case m.Boot.Version != protocolVersion:
		return nil, 0, fmt.Errorf("the owner speaks version %d of the protocol, not %d", m.Boot.Version, protocolVersion)
	case m.Boot.Layers < 0 || m.Boot.Layers > vmm.MaxLayers:
		return nil, 0, fmt.Errorf("%d layers", m.Boot.Layers)
	case m.Boot.Disks < 0 || m.Boot.Disks > vmm.MaxDisks:
		return nil, 0, fmt.Errorf("%d disks", m.Boot.Disks)
	}
	return m.Boot, m.ID, nil
}

// build makes the virtual machine of the files that the process has been given, and closes what is not
// needed any more.
func build(boot *bootMessage, server *server, pages *os.File) (*vmm.VM, error) {
	next := firstFile
	take := func(name string) *os.File {
		next++
		return os.NewFile(uintptr(next-1), name)
	}
	if boot.Branch {
		return buildCopy(boot, server, take, pages)
	}
	cfg := vmm.Config{
		KVM: take("KVM"), Kernel: take("kernel"),
		Cmdline: boot.Cmdline, VCPUs: boot.VCPUs, MemoryMiB: boot.MemoryMiB,
		Console: os.Stdout, Pages: pages,
	}
	if boot.Initramfs {
		cfg.Initramfs = take("initramfs")
	}
	for i := range boot.Disks {
		cfg.Disks = append(cfg.Disks, take(fmt.Sprintf("disk %d", i)))
	}
	if boot.Network != nil {
		cfg.Network = server.network(boot.Network)
	}
	vm, err := vmm.New(cfg)
	for _, f := range []*os.File{cfg.KVM, cfg.Kernel, cfg.Initramfs} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil && vm != nil {
		err = errors.Join(err, vm.Close())
	}
	return vm, err
}
