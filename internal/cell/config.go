package cell

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/aethervm/aether/vmm"
)

// ErrConfig is wrapped by errors about a Config that describes no cell; those about its virtual machine
// wrap vmm.ErrConfig or vmm.ErrKernel.
var ErrConfig = errors.New("cell: invalid configuration")

// Config is what a cell is made of. Files stay the caller's, who may close them when Start has
// returned.
type Config struct {
	// ID names the cell: 1 to 64 letters, digits and '-'. Two cells of one host must not share one at
	// the same time. It begins with what tells whose it is ("aether-" and the ID of a lease), so that
	// [Sweep] finds what a killed owner has left: the cell's control group has it as its name.
	ID string
	// Program is what the cell's process executes: that of package cellbinary, or another program that
	// calls Main. It must be open for reading, and executable for all users.
	Program *os.File
	// Kernel, Initramfs, Disks, Cmdline, VCPUs and MemoryMiB are as in vmm.Config.
	Kernel, Initramfs *os.File
	Disks             []*os.File
	Cmdline           string
	VCPUs, MemoryMiB  int
	// From, if not nil, has the virtual machine go on from a branch of another one, of the same tenant. Kernel,
	// Initramfs, Cmdline, VCPUs and MemoryMiB then do not count: they are the branch's. Disks are the same as
	// those of the cell that was branched, and there is a network if that had one.
	From *Branch
	// Network gives the guest a network card; nil for none. The rules are enforced here, by the owner of
	// the cell, who also opens the flows: the cell itself has no network. Network.Denied, Dial and
	// Resolve are called in this process, from several goroutines.
	Network *vmm.Network
	// Console, if not nil, gets what the guest writes to its serial console, from one goroutine. A Write
	// holds up the guest, and Close; errors are ignored.
	Console io.Writer
}

const (
	maxID = 64
	// maxCmdline is more than any kernel takes, and leaves room in a message.
	maxCmdline = 16 << 10
	// maxRules bounds the rules of a network for the same reason.
	maxRules = 256
)

// settle takes from the branch what is the branch's.
func (c *Config) settle() {
	if c.From != nil {
		c.VCPUs, c.MemoryMiB = c.From.vcpus, c.From.memoryMiB
		c.Kernel, c.Initramfs, c.Cmdline = nil, nil, ""
	}
}

// badConfig is ErrConfig with what is wrong.
func badConfig(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...)
}

func (c *Config) check() error {
	spare := SpareConfig{ID: c.ID, Program: c.Program, VCPUs: c.VCPUs, MemoryMiB: c.MemoryMiB}
	if err := spare.check(); err != nil {
		return err
	}
	switch {
	case c.From == nil && c.Kernel == nil:
		return badConfig("no kernel")
	case c.From != nil && (len(c.Disks) != c.From.disks || (c.Network != nil) != c.From.network):
		return badConfig("%d disks, network: %v; the branch is of a cell with %d, %v", len(c.Disks), c.Network != nil, c.From.disks, c.From.network)
	case len(c.Disks) > vmm.MaxDisks:
		return badConfig("%d disks; up to %d are possible", len(c.Disks), vmm.MaxDisks)
	case len(c.Cmdline) > maxCmdline:
		return badConfig("a kernel command line of %d bytes; up to %d are possible", len(c.Cmdline), maxCmdline)
	case c.Network != nil && len(c.Network.Allow) > maxRules:
		return badConfig("%d rules for the network; up to %d are possible", len(c.Network.Allow), maxRules)
	}
	for i, d := range c.Disks {
		if d == nil {
			return badConfig("disk %d is missing", i)
		}
	}
	return nil
}
