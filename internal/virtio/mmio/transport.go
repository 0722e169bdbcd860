// Package mmio is the virtio-mmio transport, version 2 (virtio 1.2, section 4.2): the registers
// through which a driver finds, negotiates and runs one device.
package mmio

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/queue"
)

// Config is what a transport connects.
type Config struct {
	Device virtio.Device
	Memory *guestmem.Memory
	// Interrupt drives the device's interrupt line. It is called with true for every event, also
	// when the line is asserted already (an edge for those who want edges), and with false when the
	// driver has acknowledged all events. Calls are ordered; they are made with a lock held, so that
	// it must not call the transport.
	Interrupt func(asserted bool)
	// Stopped, if not nil, is told why the device was stopped, once after each reset. No lock is
	// held.
	Stopped func(error)
}

// Transport is the register window of one device. Its methods may be called concurrently.
type Transport struct {
	dev      virtio.Device
	mem      *guestmem.Memory
	offered  uint64
	maxSizes []uint16
	stopped  func(error)
	line     line

	mu     sync.Mutex
	regs   registers
	queues []*queue.Queue // of an activated device
	active bool           // the device is activated
	paused bool

	helped []atomic.Bool // by queue: a goroutine serves it, in place of a caller on the host
}

// registers is what the driver has written.
type registers struct {
	status                               uint32
	deviceFeaturesSel, driverFeaturesSel uint32
	driverFeatures                       uint64
	queueSel                             uint32
	queues                               []queueRegisters
}

type queueRegisters struct {
	queue.Config
	ready bool
}

// New returns the transport of a device that no driver has found yet.
func New(cfg Config) (*Transport, error) {
	sizes := cfg.Device.QueueSizes()
	for _, n := range sizes {
		if n == 0 || n > queue.MaxSize || n&(n-1) != 0 {
			return nil, fmt.Errorf("virtio device %d: invalid queue size %d", cfg.Device.ID(), n)
		}
	}
	t := &Transport{
		dev:      cfg.Device,
		mem:      cfg.Memory,
		offered:  cfg.Device.Features() | virtio.FeatureVersion1 | virtio.FeatureEventIdx | virtio.FeatureIndirectDesc,
		maxSizes: sizes,
		stopped:  cfg.Stopped,
		line:     line{set: cfg.Interrupt},
	}
	t.regs.queues = make([]queueRegisters, len(sizes))
	t.helped = make([]atomic.Bool, len(sizes))
	return t, nil
}

// Notify processes a queue, as a write of its number to the register at NotifyOffset does. It returns
// when the queue is empty, which may be never if the driver keeps it busy, but lets go of the device
// in between. What the host's side of a device does is not waited for.
func (t *Transport) Notify(index int) {
	for t.process(index) {
	}
}

// hostRounds is how many rounds a caller on the host's side of a device does itself.
const hostRounds = 16

// notifyByHost is Notify for the host's side of a device, whose callers have deadlines of their own: a
// guest that keeps the queue busy does not hold them up, but a goroutine. That one ends when the queue
// is empty or the device is paused, as the loop of a vCPU does.
func (t *Transport) notifyByHost(index int) {
	for range hostRounds {
		if !t.process(index) {
			return
		}
	}
	if helped := &t.helped[index]; helped.CompareAndSwap(false, true) {
		go t.help(index, helped)
	}
}

func (t *Transport) help(index int, helped *atomic.Bool) {
	for {
		t.Notify(index)
		helped.Store(false)
		// Who came while the mark was set has left the queue to this goroutine.
		if !t.process(index) || !helped.CompareAndSwap(false, true) {
			return
		}
	}
}

// process does one round of Notify and tells whether there is more to do.
func (t *Transport) process(index int) bool {
	t.mu.Lock()
	if !t.active || t.paused || index < 0 || index >= len(t.queues) || t.queues[index] == nil {
		t.mu.Unlock()
		return false
	}
	more, err := t.dev.Process(index)
	if err == nil {
		t.mu.Unlock()
		return more
	}
	t.stop()
	t.mu.Unlock()
	// Memory that was closed under the device is the end of the machine, not the driver's fault.
	if !errors.Is(err, guestmem.ErrClosed) {
		t.tellStopped(fmt.Errorf("queue %d: %w", index, err))
	}
	return false
}

// stop ends the device's life until the driver resets it. The caller holds t.mu.
func (t *Transport) stop() {
	t.deactivate()
	t.regs.status |= statusNeedsReset
	t.line.raise(interruptConfig)
}

func (t *Transport) tellStopped(err error) {
	if t.stopped != nil {
		t.stopped(fmt.Errorf("virtio device %d stopped: %w", t.dev.ID(), err))
	}
}

// activate hands the device its queues. The caller holds t.mu.
func (t *Transport) activate(states []queue.State) error {
	opt := queue.Options{
		Indirect: t.regs.driverFeatures&virtio.FeatureIndirectDesc != 0,
		EventIdx: t.regs.driverFeatures&virtio.FeatureEventIdx != 0,
	}
	queues := make([]*queue.Queue, len(t.maxSizes))
	for i, r := range t.regs.queues {
		if !r.ready {
			continue
		}
		s := queue.State{Config: r.Config}
		if states != nil {
			s = states[i]
		}
		q, err := queue.Restore(t.mem, s, opt)
		if err != nil {
			return fmt.Errorf("queue %d: %w", i, err)
		}
		queues[i] = q
	}
	err := t.dev.Activate(virtio.Link{
		Memory:        t.mem,
		Features:      t.regs.driverFeatures,
		Queues:        queues,
		Interrupt:     func() { t.line.raise(interruptUsed) },
		ConfigChanged: t.line.configChanged,
		Notify:        t.notifyByHost,
	})
	if err != nil {
		return err
	}
	t.queues, t.active = queues, true
	return nil
}

// deactivate takes the queues away from the device. The caller holds t.mu.
func (t *Transport) deactivate() {
	for _, q := range t.queues {
		if q != nil {
			q.Stop()
		}
	}
	t.queues, t.active = nil, false
	t.dev.Reset()
}

// reset does what the driver asks for by writing 0 to the status. The caller holds t.mu.
func (t *Transport) reset() {
	t.deactivate()
	t.regs = registers{queues: make([]queueRegisters, len(t.maxSizes))}
	t.line.clear()
}

// Pause returns when the device is idle. From then on it touches neither guest memory nor its queues
// until Resume; registers work as ever. Notifications meanwhile are made up for by Resume.
func (t *Transport) Pause() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused = true
}

// Resume ends a pause, or begins the life of a restored device. Interrupts that the driver has not
// acknowledged are raised again, since it is not known whether they got through.
func (t *Transport) Resume() {
	t.mu.Lock()
	t.paused = false
	t.mu.Unlock()
	t.line.again()
	for i := range t.maxSizes {
		// Not to the end: rings that lie over each other, or over what the device writes, may never be
		// empty even if no vCPU runs.
		t.notifyByHost(i)
	}
}

func (t *Transport) processAll() {
	for i := range t.maxSizes {
		t.Notify(i)
	}
}
