package vmm

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/machine"
)

// Bounds of a Config.
const (
	MaxVCPUs     = boot.MaxVCPUs
	MinMemoryMiB = 64
	MaxMemoryMiB = int(guestmem.MaxSize >> 20)
	// MaxDisks leaves room for the devices that every VM has, and a network card.
	MaxDisks = boot.MaxDevices - fixedDevices - 1
)

// GuestCID is the context ID of every guest: its address among the sockets. Each VM has its own host
// side, so that guests need not differ.
const GuestCID = 3

// Kinds of error, for errors.Is.
var (
	// ErrConfig is wrapped by errors about a Config that describes no VM.
	ErrConfig = errors.New("vmm: invalid configuration")
	// ErrKernel is wrapped by errors about a kernel file that cannot be booted.
	ErrKernel = errors.New("vmm: kernel cannot be booted")
	// ErrEnded is wrapped by errors about a VM that has ended; their text says how.
	ErrEnded = errors.New("vmm: the VM has ended")
)

// Config is what a VM is made of. Files stay the caller's, who may close those that are only read
// when New has returned.
type Config struct {
	// Kernel is a Linux kernel, a vmlinux (fast) or a bzImage (which is unpacked first). It is only
	// read. A vmlinux in a sealed memfd of whole pages (F_SEAL_WRITE, _SHRINK and _GROW) is not even that:
	// it is mapped, and VMs share its pages.
	Kernel *os.File
	// Initramfs is the archive of the guest's first root file system; nil for none. It is only read.
	Initramfs *os.File
	// Cmdline is added to the kernel's command line, which otherwise says no more than what the
	// machine needs: its console, and how to end it.
	Cmdline string
	// VCPUs is the number of processors, 1 to MaxVCPUs.
	VCPUs int
	// MemoryMiB is the guest's RAM in MiB, MinMemoryMiB to MaxMemoryMiB. The host allocates it page by
	// page as the guest uses it, and gets back what its programs have freed. Debian's kernels take 50 MiB while
	// they boot.
	MemoryMiB int
	// Disks are regular files, the guest's read-only disks /dev/vda, /dev/vdb and so on, in multiples
	// of 512 bytes. They are to stay open and unchanged until the VM is closed.
	Disks []*os.File
	// Network gives the guest a network card; nil for none.
	Network *Network
	// Console, if not nil, gets what the guest writes to its serial console. A Write holds up the
	// guest. Errors are ignored.
	Console io.Writer
	// DeviceStopped, if not nil, is told when a device was stopped because of what the guest did to
	// it. It is called from several goroutines, and not to block.
	DeviceStopped func(error)
	// KVM is the KVM device, open for reading and writing; nil has New open it. It is not kept.
	KVM *os.File
	// Shell, if not nil, is for as many processors, and is used in place of KVM. It is the VM's once that is made; if it
	// cannot be made, the shell may be gone, and is still to be closed.
	Shell *Shell
	// Pages is the process's page map, /proc/self/pagemap, open for reading, which Branch needs: for a
	// process that cannot open it any more by then. It is the VM's once that is made. nil has Branch open it.
	Pages *os.File
}

func (c *Config) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...)
	}
	switch {
	case c.Kernel == nil:
		return bad("no kernel")
	case c.VCPUs < 1 || c.VCPUs > MaxVCPUs:
		return bad("%d vCPUs; 1 to %d are possible", c.VCPUs, MaxVCPUs)
	case c.MemoryMiB < MinMemoryMiB || c.MemoryMiB > MaxMemoryMiB:
		return bad("%d MiB of memory; %d to %d are possible", c.MemoryMiB, MinMemoryMiB, MaxMemoryMiB)
	case len(c.Disks) > MaxDisks:
		return bad("%d disks; up to %d are possible", len(c.Disks), MaxDisks)
	}
	for i, d := range c.Disks {
		if d == nil {
			return bad("disk %d is missing", i)
		}
	}
	if c.Network != nil {
		return c.Network.check()
	}
	return nil
}

func (c *Config) cmdline() string {
	if c.Cmdline == "" {
		return machine.Cmdline
	}
	return machine.Cmdline + " " + c.Cmdline
}
