package kvm

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Device is the path of the KVM device.
const Device = "/dev/kvm"

// Cap is the number of a KVM capability.
type Cap uintptr

// System is the open KVM device. Its methods may be called concurrently.
type System struct {
	fd       *fd
	mmapSize int
}

// Open opens the KVM device and makes sure that it speaks the one stable version of the interface.
// A missing device is an error that wraps fs.ErrNotExist, a forbidden one fs.ErrPermission.
func Open() (*System, error) {
	raw, err := unix.Open(Device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", Device, err)
	}
	return newSystem(raw)
}

// OpenFile is Open for a process that cannot open the device, but was given it, open for reading and
// writing. The file stays the caller's.
func OpenFile(f *os.File) (*System, error) {
	raw, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	runtime.KeepAlive(f)
	if err != nil {
		return nil, fmt.Errorf("open %s: duplicate %s: %w", Device, f.Name(), err)
	}
	return newSystem(raw)
}

// newSystem takes over raw.
func newSystem(raw int) (*System, error) {
	s := &System{fd: newFD(raw, Device)}
	if err := s.check(); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

func (s *System) check() error {
	version, err := s.fd.ioctlValue("KVM_GET_API_VERSION", ioGetAPIVersion, 0)
	if err != nil {
		return err
	}
	// "Applications should refuse to run if KVM_GET_API_VERSION returns a value other than 12."
	if version != apiVersion {
		return fmt.Errorf("%s speaks version %d of the KVM interface, not %d", Device, version, apiVersion)
	}
	if s.mmapSize, err = s.fd.ioctlValue("KVM_GET_VCPU_MMAP_SIZE", ioGetVCPUMmapSize, 0); err != nil {
		return err
	}
	return nil
}

// Check returns the value of a capability: 0 means absent, other values are capability-specific.
func (s *System) Check(c Cap) (int, error) {
	return s.fd.ioctlValue("KVM_CHECK_EXTENSION", ioCheckExtension, uintptr(c))
}

// SupportedCPUID returns the CPUID leaves that this host and KVM can give to a guest.
func (s *System) SupportedCPUID() ([]CPUIDEntry, error) {
	list := cpuid2{nent: maxCPUIDEntries}
	if err := s.getSupportedCPUID(&list); err != nil {
		return nil, err
	}
	return append([]CPUIDEntry(nil), list.entries[:min(list.nent, maxCPUIDEntries)]...), nil
}

// CreateVM makes a VM without memory, processors or interrupt controllers. It does not depend on s
// staying open.
func (s *System) CreateVM() (*VM, error) {
	raw, err := s.fd.ioctlValue("KVM_CREATE_VM", ioCreateVM, 0)
	if err != nil {
		return nil, err
	}
	// KVM opens the descriptors that it returns with O_CLOEXEC.
	return &VM{fd: newFD(raw, "VM"), mmapSize: s.mmapSize, slots: map[uint32][]byte{}}, nil
}

// Close closes the device. VMs made from it live on. It is idempotent.
func (s *System) Close() error { return s.fd.close() }
