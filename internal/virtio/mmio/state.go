package mmio

import (
	"errors"
	"fmt"

	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/queue"
)

// State is what a transport remembers. The device's own State is beside it.
type State struct {
	DeviceID          uint32
	Status            uint32
	DeviceFeaturesSel uint32
	DriverFeaturesSel uint32
	DriverFeatures    uint64
	QueueSel          uint32
	InterruptStatus   uint32
	ConfigGeneration  uint32
	Queues            []QueueState
}

// QueueState is what a transport remembers of a queue.
type QueueState struct {
	queue.State
	Ready bool
}

// ErrState is wrapped by errors about a state that does not fit or contradicts itself.
var ErrState = errors.New("virtio: invalid device state")

// State returns the state of a paused transport.
func (t *Transport) State() (State, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.paused {
		return State{}, errors.New("virtio: state of a device that is not paused")
	}
	s := State{
		DeviceID:          t.dev.ID(),
		Status:            t.regs.status,
		DeviceFeaturesSel: t.regs.deviceFeaturesSel,
		DriverFeaturesSel: t.regs.driverFeaturesSel,
		DriverFeatures:    t.regs.driverFeatures,
		QueueSel:          t.regs.queueSel,
	}
	s.InterruptStatus, s.ConfigGeneration = t.line.read()
	for i, r := range t.regs.queues {
		q := QueueState{State: queue.State{Config: r.Config}, Ready: r.ready}
		if t.active && t.queues[i] != nil {
			q.State = t.queues[i].State()
		}
		s.Queues = append(s.Queues, q)
	}
	return s, nil
}

// Restore gives a new transport a state, for a copy of the guest's memory. The state is trusted no
// more than a driver is. The transport is paused until Resume.
func (t *Transport) Restore(s State) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.regs.status != 0 || t.active {
		return fmt.Errorf("%w: device %d is in use", ErrState, t.dev.ID())
	}
	if err := t.check(s); err != nil {
		return fmt.Errorf("device %d: %w", t.dev.ID(), err)
	}
	t.paused = true
	t.regs = registers{
		status:            s.Status,
		deviceFeaturesSel: s.DeviceFeaturesSel,
		driverFeaturesSel: s.DriverFeaturesSel,
		driverFeatures:    s.DriverFeatures,
		queueSel:          s.QueueSel,
	}
	states := make([]queue.State, len(s.Queues))
	for i, q := range s.Queues {
		states[i] = q.State
		t.regs.queues = append(t.regs.queues, queueRegisters{Config: q.Config, ready: q.Ready})
	}
	t.line.restore(s.InterruptStatus, s.ConfigGeneration)
	if s.Status != statusRunning {
		return nil
	}
	if err := t.activate(states); err != nil {
		t.reset()
		return fmt.Errorf("%w: device %d: %w", ErrState, t.dev.ID(), err)
	}
	return nil
}

func (t *Transport) check(s State) error {
	if s.DeviceID != t.dev.ID() || len(s.Queues) != len(t.maxSizes) {
		return fmt.Errorf("%w: of device %d with %d queues", ErrState, s.DeviceID, len(s.Queues))
	}
	switch status := s.Status &^ (statusFailed | statusNeedsReset); status {
	case 0, statusAcknowledged, statusDriverFound:
	case statusNegotiated, statusRunning:
		if s.DriverFeatures&^t.offered != 0 || s.DriverFeatures&virtio.FeatureVersion1 == 0 {
			return fmt.Errorf("%w: features %#x, offered %#x", ErrState, s.DriverFeatures, t.offered)
		}
	default:
		return fmt.Errorf("%w: status %#x", ErrState, s.Status)
	}
	if s.InterruptStatus&^(interruptUsed|interruptConfig) != 0 {
		return fmt.Errorf("%w: interrupt status %#x", ErrState, s.InterruptStatus)
	}
	for i, q := range s.Queues {
		// Of a device that does not run, it is what the driver has written, and checked if it is to run.
		if s.Status == statusRunning && q.Ready && q.Size > t.maxSizes[i] {
			return fmt.Errorf("%w: queue %d of %d descriptors, at most %d", ErrState, i, q.Size, t.maxSizes[i])
		}
	}
	return nil
}
