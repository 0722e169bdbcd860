package boot

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/aethervm/aether/internal/guestmem"
)

// Config is what a guest boots with.
type Config struct {
	Kernel *Kernel
	// Initrd is the archive of the first root file system, compressed or not; nil for none.
	Initrd Blob
	// Cmdline is the kernel's command line.
	Cmdline string
	// VCPUs is the number of processors, 1 to MaxVCPUs.
	VCPUs int
	// Devices are the virtio-mmio devices that the guest is to find, in this order.
	Devices []Device
	// GenerationID is the first generation ID; see GenerationIDAddr.
	GenerationID [16]byte
}

// Device is a virtio-mmio device: its registers and its interrupt, edge triggered.
type Device struct {
	// Registers lie below 4 GiB, outside RAM.
	Registers guestmem.Range
	GSI       uint32
}

// DeviceAt returns the registers and the interrupt of the device with the given index, 0 to
// MaxDevices-1, as AetherVM places them.
func DeviceAt(index int) Device {
	return Device{
		Registers: guestmem.Range{GPA: DeviceAddr + uint64(index)*DeviceSize, Size: DeviceSize},
		GSI:       uint32(DeviceGSI + index),
	}
}

// Load writes all that a guest needs to boot into its memory, which must be fresh, and returns the state in which its boot processor starts. On an error the memory's content is
// undefined.
func Load(mem *guestmem.Memory, cfg Config) (CPU, error) {
	cpu, err := load(mem, cfg)
	if err != nil {
		return CPU{}, fmt.Errorf("load guest: %w", err)
	}
	return cpu, nil
}

func load(mem *guestmem.Memory, cfg Config) (CPU, error) {
	if cfg.Kernel == nil {
		return CPU{}, fmt.Errorf("%w: no kernel", ErrConfig)
	}
	if n := cfg.Kernel.maxCmdline(); len(cfg.Cmdline) > n || strings.Contains(cfg.Cmdline, "\x00") {
		return CPU{}, fmt.Errorf("%w: command line of %d bytes; it takes %d, none zero", ErrConfig, len(cfg.Cmdline), n)
	}
	tables, err := acpiTables(cfg.VCPUs, cfg.Devices)
	if err != nil {
		return CPU{}, err
	}
	if err := mem.Acquire(); err != nil {
		return CPU{}, err
	}
	defer mem.Release()
	e820, err := memoryMap(mem.Ranges())
	if err != nil {
		return CPU{}, err
	}
	if err := cfg.Kernel.load(mem); err != nil {
		return CPU{}, err
	}
	initrd, err := loadInitrd(mem, cfg.Kernel, cfg.Initrd)
	if err != nil {
		return CPU{}, err
	}
	cpu := entryState(cfg.Kernel.entry)
	return cpu, errors.Join(
		mem.WriteAt(cpu.gdt(), gdtAddr),
		mem.WriteAt(pageTables(), pageTablesAddr),
		mem.WriteAt(bootParams(cfg.Kernel, e820, initrd), paramsAddr),
		mem.WriteAt(append([]byte(cfg.Cmdline), 0), cmdlineAddr),
		mem.WriteAt(tables, acpiAddr),
		mem.WriteAt(cfg.GenerationID[:], GenerationIDAddr),
	)
}

// loadInitrd puts the archive where it leaves the kernel the most room: at the end of the memory in
// which it may be.
func loadInitrd(mem *guestmem.Memory, k *Kernel, b Blob) (guestmem.Range, error) {
	if b == nil || b.Size() == 0 {
		return guestmem.Range{}, nil
	}
	end := min(mem.Ranges()[0].End(), k.initrdLimit())
	// It may start anywhere after the kernel; before it, kernels that unpack themselves could
	// overwrite it.
	first := k.span.End()
	place, err := placeBelow(first, end, b.Size())
	if err != nil {
		return guestmem.Range{}, err
	}
	dst, err := mem.Slice(place.GPA, place.Size)
	if err != nil {
		return guestmem.Range{}, fmt.Errorf("%w: initramfs: %w", ErrNoRoom, err)
	}
	if _, err := io.ReadFull(io.NewSectionReader(b, 0, b.Size()), dst); err != nil {
		return guestmem.Range{}, fmt.Errorf("load initramfs: %w", err)
	}
	return place, nil
}

// placeBelow finds the last page at which size bytes fit between first and end.
func placeBelow(first, end uint64, size int64) (guestmem.Range, error) {
	if size < 0 || first > end || uint64(size) > end-first {
		return guestmem.Range{}, fmt.Errorf("%w: initramfs of %d bytes between %#x and %#x", ErrNoRoom, size, first, end)
	}
	start := (end - uint64(size)) &^ (guestmem.PageSize - 1)
	if start < first {
		return guestmem.Range{}, fmt.Errorf("%w: initramfs of %d bytes between %#x and %#x", ErrNoRoom, size, first, end)
	}
	return guestmem.Range{GPA: start, Size: uint64(size)}, nil
}
