package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/mmio"
)

// Cmdline is what a Linux guest's command line needs to fit the machine: its console; an end of the
// machine that is seen when the kernel panics; and no search for buses and ports that are not there.
//
// Without reboot=acpi Linux takes a machine of reduced hardware for one with EFI, finds that it has
// none, and jumps to a BIOS (arch/x86/kernel/reboot.c: reboot_init).
//
// A copy of a machine gets its time-stamp counter a moment before or after its clock. Without tsc=nowatchdog it would find the
// former unstable for that, start a thread to say so, and change its clock if that was it.
const Cmdline = "console=ttyS0 panic=-1 reboot=acpi pci=off 8250.nr_uarts=1 tsc=nowatchdog"

// Config is what a machine is made of.
type Config struct {
	System *kvm.System
	// Shell, if not nil, is what the machine is made of, which it takes over; System then does not count.
	Shell *Shell
	// Memory is the guest's RAM. It stays the caller's, who closes it after the machine.
	Memory *guestmem.Memory
	// VCPUs is the number of processors, 1 to boot.MaxVCPUs.
	VCPUs int
	// Devices are the virtio devices, at most boot.MaxDevices; the one with index i is at
	// boot.DeviceAt(i). They stay the caller's, who closes them after the machine.
	Devices []virtio.Device
	// Console, if not nil, gets what the guest writes to its serial console. A Write holds up the
	// guest. Errors are ignored.
	Console io.Writer
	// DeviceStopped, if not nil, is told when a device is stopped because of what its driver did; once
	// for each device, since a driver can reset it and do it again for ever. No lock is held.
	DeviceStopped func(error)
}

// Machine is a virtual machine. Its methods may be called concurrently.
type Machine struct {
	vm      *kvm.VM
	mem     *guestmem.Memory
	vcpus   []*kvm.VCPU
	bus     bus
	devices []*mmio.Transport
	console *console

	gate sync.Mutex // held while devices are paused or resumed; taken before mu

	mu      sync.Mutex
	changed sync.Cond // of all that follows
	state   state
	paused  int // how many callers have paused the machine
	running int // vCPUs that are neither parked nor gone
	threads sync.WaitGroup
	end     End
	ended   chan struct{} // closed when end is set

	closing sync.Once
	closed  error
}

// state is where a machine is in its life.
type state int

const (
	created state = iota
	started
	over
)

// New makes a machine that does not run yet.
func New(cfg Config) (*Machine, error) {
	m, err := newMachine(cfg)
	if err != nil {
		return nil, fmt.Errorf("make machine: %w", err)
	}
	return m, nil
}

func newMachine(cfg Config) (_ *Machine, err error) {
	if err := checkVCPUs(cfg.VCPUs); err != nil {
		return nil, err
	}
	if len(cfg.Devices) > boot.MaxDevices {
		return nil, fmt.Errorf("%w: %d devices; %d are possible", boot.ErrConfig, len(cfg.Devices), boot.MaxDevices)
	}
	// KVM uses the memory behind the back of its owner, who could unmap it.
	if err := cfg.Memory.Acquire(); err != nil {
		return nil, err
	}
	m := &Machine{mem: cfg.Memory, console: &console{sink: cfg.Console}, ended: make(chan struct{})}
	m.changed.L = &m.mu
	defer func() {
		if err != nil {
			err = errors.Join(err, m.free())
		}
	}()
	if err := m.createVM(cfg); err != nil {
		return nil, err
	}
	m.bus.ioapic = newIOAPIC(m.signal)
	m.bus.serial = newSerial(m.console, func() { m.bus.ioapic.pulse(boot.SerialGSI) })
	for i, d := range cfg.Devices {
		gsi := boot.DeviceAt(i).GSI
		t, err := mmio.New(mmio.Config{
			Device: d, Memory: cfg.Memory, Stopped: onlyFirst(cfg.DeviceStopped),
			Interrupt: func(asserted bool) {
				if asserted {
					m.bus.ioapic.pulse(gsi)
				}
			},
		})
		if err != nil {
			return nil, err
		}
		m.devices = append(m.devices, t)
		m.bus.devices = append(m.bus.devices, t)
	}
	return m, nil
}

// onlyFirst passes on the first error.
func onlyFirst(tell func(error)) func(error) {
	var once sync.Once
	return func(err error) {
		if tell != nil {
			once.Do(func() { tell(err) })
		}
	}
}

// createVM makes what the kernel has of the machine, or takes it from a shell. A PIT, which there is none of, would make
// memory slow that comes after it.
func (m *Machine) createVM(cfg Config) (err error) {
	shell := cfg.Shell
	if shell == nil {
		if shell, err = NewShell(cfg.System, cfg.VCPUs); err != nil {
			return err
		}
	}
	if m.vm, m.vcpus, err = shell.take(cfg.VCPUs); err != nil {
		return err
	}
	regions, err := m.mem.Regions()
	if err != nil {
		return err
	}
	for slot, r := range regions {
		if err := m.vm.SetMemory(uint32(slot), r.GPA, r.Mem); err != nil {
			return err
		}
	}
	return nil
}

// signal delivers an interrupt of the IOAPIC.
func (m *Machine) signal(msi kvm.MSI) {
	// What is not delivered is the guest's fault: it has named a local APIC that is not there or is
	// switched off, or a vector that does not exist, as on real hardware.
	_, _ = m.vm.SignalMSI(msi)
}

// Start sets the boot processor's registers and lets the machine run.
func (m *Machine) Start(cpu boot.CPU) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != created {
		return errors.New("start machine: it was started before")
	}
	if err := setBootState(m.vcpus[0], cpu); err != nil {
		return fmt.Errorf("start machine: %w", err)
	}
	m.state = started
	m.running = len(m.vcpus)
	for i, vcpu := range m.vcpus {
		m.threads.Go(func() { m.runVCPU(i, vcpu) })
	}
	return nil
}

// SetGenerationID tells the guest that it is another machine now, one that shares its past with
// others: a Linux with the vmgenid driver reseeds its random number generator. The ID must be unique.
func (m *Machine) SetGenerationID(id [16]byte) error {
	if err := m.mem.WriteAt(id[:], boot.GenerationIDAddr); err != nil {
		return fmt.Errorf("set generation ID: %w", err)
	}
	m.bus.ioapic.pulse(boot.GenerationGSI)
	return nil
}

// Console returns the last part of what the guest has written to its serial console.
func (m *Machine) Console() []byte { return m.console.tail() }

// Done is closed when the machine has ended.
func (m *Machine) Done() <-chan struct{} { return m.ended }

// Wait waits for the machine's end and returns how it ended.
func (m *Machine) Wait(ctx context.Context) (End, error) {
	select {
	case <-m.ended:
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.end, nil
	case <-ctx.Done():
		return End{}, context.Cause(ctx)
	}
}

// Close stops the machine and frees it. It is idempotent; every call returns after it is gone.
func (m *Machine) Close() error {
	m.closing.Do(func() {
		m.Stop()
		m.closed = m.free()
	})
	return m.closed
}

// free gives back everything, the memory last.
func (m *Machine) free() error {
	m.threads.Wait()
	var errs []error
	for _, vcpu := range m.vcpus {
		errs = append(errs, vcpu.Close())
	}
	if m.vm != nil {
		errs = append(errs, m.vm.Close())
	}
	m.mem.Release()
	return errors.Join(errs...)
}
