package machine

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/virtio/mmio"
)

// State is what a machine is at one moment, beside its configuration, its memory and what its devices
// remember themselves. It can be given to any number of machines of the same configuration.
type State struct {
	VCPUs []*kvm.VCPUState
	// Clock is kvm-clock.
	Clock      time.Duration
	IOAPIC     IOAPICState
	Serial     SerialState
	Transports []mmio.State
}

// ErrState is wrapped by errors about a state that does not fit the machine or contradicts itself.
var ErrState = errors.New("machine: invalid state")

// State reads the state of a machine that is paused, with the model-specific registers that
// System.MSRIndices names. Devices are asked for theirs during the same pause.
func (m *Machine) State(msrs []uint32) (*State, error) {
	s, err := m.readState(msrs)
	if err != nil {
		return nil, fmt.Errorf("read the machine's state: %w", err)
	}
	return s, nil
}

func (m *Machine) readState(msrs []uint32) (*State, error) {
	m.gate.Lock() // so that nobody resumes it
	defer m.gate.Unlock()
	m.mu.Lock()
	still := m.paused > 0 && m.running == 0 && m.state == started
	m.mu.Unlock()
	if !still {
		return nil, errors.New("it does not run, or is not paused")
	}
	s := &State{IOAPIC: m.bus.ioapic.state(), Serial: m.bus.serial.state()}
	var err error
	if s.Clock, err = m.vm.Clock(); err != nil {
		return nil, err
	}
	for _, vcpu := range m.vcpus {
		v, err := vcpu.State(msrs)
		if err != nil {
			return nil, err
		}
		s.VCPUs = append(s.VCPUs, v)
	}
	for _, d := range m.devices {
		t, err := d.State()
		if err != nil {
			return nil, err
		}
		s.Transports = append(s.Transports, t)
	}
	return s, nil
}

// Restore gives a machine that was not started the state of another one. Its memory has what the
// other's had, and its devices have been given what the other's remembered. The machine is then paused
// once: Resume lets it go on. The state is trusted no more than a guest is; after an error the
// machine can only be closed.
func (m *Machine) Restore(s *State) error {
	if err := m.restore(s); err != nil {
		return fmt.Errorf("restore a machine: %w", err)
	}
	return nil
}

func (m *Machine) restore(s *State) error {
	m.gate.Lock()
	defer m.gate.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != created {
		return errors.New("it was started before")
	}
	if len(s.VCPUs) != len(m.vcpus) || len(s.Transports) != len(m.devices) {
		return fmt.Errorf("%w: of %d vCPUs and %d devices, the machine has %d and %d", ErrState,
			len(s.VCPUs), len(s.Transports), len(m.vcpus), len(m.devices))
	}
	if err := errors.Join(m.bus.ioapic.restore(s.IOAPIC), m.bus.serial.restore(s.Serial)); err != nil {
		return err
	}
	for i, d := range m.devices {
		if err := d.Restore(s.Transports[i]); err != nil {
			return err
		}
	}
	// The clock before the vCPUs: their kvm-clock pages are written from it.
	if err := m.vm.SetClock(s.Clock); err != nil {
		return err
	}
	for i, vcpu := range m.vcpus {
		if err := vcpu.SetState(s.VCPUs[i]); err != nil {
			return err
		}
	}
	m.state, m.paused = started, 1
	for i, vcpu := range m.vcpus {
		m.threads.Go(func() { m.runRestored(i, vcpu) })
	}
	return nil
}

// runRestored is the life of a vCPU of a machine that begins paused.
func (m *Machine) runRestored(id int, vcpu *kvm.VCPU) {
	m.mu.Lock()
	for m.state == started && m.paused > 0 {
		m.changed.Wait()
	}
	over := m.state != started
	if !over {
		m.running++
	}
	m.mu.Unlock()
	if !over {
		m.runVCPU(id, vcpu)
	}
}

// IOAPICState is what the IOAPIC remembers.
type IOAPICState struct {
	Selected uint8
	ID       uint32
	Entries  [boot.IOAPICPins]uint64
	Pending  [boot.IOAPICPins]bool
}

func (a *ioapic) state() IOAPICState {
	a.mu.Lock()
	defer a.mu.Unlock()
	return IOAPICState{Selected: a.selected, ID: a.id, Entries: a.entries, Pending: a.pending}
}

func (a *ioapic) restore(s IOAPICState) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for pin, e := range s.Entries {
		if e&entryReadOnly != 0 {
			return fmt.Errorf("%w: entry %#x of pin %d of the IOAPIC", ErrState, e, pin)
		}
	}
	a.selected, a.id, a.entries, a.pending = s.Selected, s.ID&ioapicIDMask, s.Entries, s.Pending
	return nil
}

// SerialState is what the serial port remembers.
type SerialState struct {
	IER, FCR, LCR, MCR, Scratch byte
	Divisor                     [2]byte
	Sent                        bool
	Loopback                    []byte
}

func (s *serial) state() SerialState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return SerialState{
		IER: s.ier, FCR: s.fcr, LCR: s.lcr, MCR: s.mcr, Scratch: s.scratch, Divisor: s.divisor, Sent: s.sent,
		Loopback: slices.Clone(s.loopback),
	}
}

func (s *serial) restore(o SerialState) error {
	if len(o.Loopback) > serialFIFO || o.IER&^ierMask != 0 || o.MCR&^mcrMask != 0 {
		return fmt.Errorf("%w: serial port with %d bytes, IER %#x, MCR %#x", ErrState, len(o.Loopback), o.IER, o.MCR)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ier, s.fcr, s.lcr, s.mcr, s.scratch = o.IER, o.FCR, o.LCR, o.MCR, o.Scratch
	s.divisor, s.sent, s.loopback = o.Divisor, o.Sent, slices.Clone(o.Loopback)
	return nil
}
