package mmio

import (
	"encoding/binary"
	"fmt"

	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/queue"
)

// Read is a read by the driver of len(p) bytes at an offset in the window. Registers are 32 bits wide
// and are read as such; what is not a register, or not to be read, reads as zero.
func (t *Transport) Read(off uint64, p []byte) {
	if off >= regConfig {
		if off >= Size {
			clear(p)
			return
		}
		t.dev.ReadConfig(int(off-regConfig), p)
		return
	}
	clear(p)
	if len(p) == 4 {
		binary.LittleEndian.PutUint32(p, t.read(off))
	}
}

func (t *Transport) read(off uint64) uint32 {
	switch off {
	case regMagic:
		return magic
	case regVersion:
		return version
	case regDeviceID:
		return t.dev.ID()
	case regVendorID:
		return vendorID
	case regInterruptStatus:
		status, _ := t.line.read()
		return status
	case regConfigGeneration:
		_, generation := t.line.read()
		return generation
	}
	if off >= regShmLenLow && off <= regShmBaseHigh {
		return ^uint32(0) // there are no shared memory regions
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch off {
	case regDeviceFeatures:
		switch t.regs.deviceFeaturesSel {
		case 0:
			return uint32(t.offered)
		case 1:
			return uint32(t.offered >> 32)
		}
	case regQueueNumMax:
		if t.regs.queueSel < uint32(len(t.maxSizes)) {
			return uint32(t.maxSizes[t.regs.queueSel])
		}
	case regQueueReady:
		if q := t.selected(); q != nil && q.ready {
			return 1
		}
	case regStatus:
		return t.regs.status
	}
	return 0
}

// selected is the queue that the driver has selected, or nil.
func (t *Transport) selected() *queueRegisters {
	if t.regs.queueSel >= uint32(len(t.regs.queues)) {
		return nil
	}
	return &t.regs.queues[t.regs.queueSel]
}

// Write is a write by the driver of p at an offset in the window. What a driver must not write, or not
// now, is ignored. A write that notifies a queue returns when the queue is processed.
func (t *Transport) Write(off uint64, p []byte) {
	if off >= regConfig {
		if off < Size {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.dev.WriteConfig(int(off-regConfig), p)
		}
		return
	}
	if len(p) != 4 {
		return
	}
	v := binary.LittleEndian.Uint32(p)
	switch off {
	case regInterruptACK:
		t.line.acknowledge(v)
	case regQueueNotify:
		if v < queue.MaxSize { // far more than there are queues, and an int everywhere
			t.Notify(int(v))
		}
	case regStatus:
		t.writeStatus(v)
	default:
		t.write(off, v)
	}
}

func (t *Transport) write(off uint64, v uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch off {
	case regDeviceFeaturesSel:
		t.regs.deviceFeaturesSel = v
	case regDriverFeaturesSel:
		t.regs.driverFeaturesSel = v
	case regDriverFeatures:
		// Between finding the driver and agreeing on the features.
		if t.regs.status == statusDriverFound {
			switch t.regs.driverFeaturesSel {
			case 0:
				setLow(&t.regs.driverFeatures, v)
			case 1:
				setHigh(&t.regs.driverFeatures, v)
			}
		}
	case regQueueSel:
		t.regs.queueSel = v
	case regQueueReady:
		if q := t.selected(); q != nil {
			t.writeReady(q, v)
		}
	default:
		// Queues are set up after the features are agreed on and before the device runs.
		if q := t.selected(); q != nil && !q.ready && t.regs.status == statusNegotiated {
			q.write(off, v)
		}
	}
}

func (q *queueRegisters) write(off uint64, v uint32) {
	switch off {
	case regQueueNum:
		q.Size = uint16(min(v, queue.MaxSize+1)) // one too many is refused when the queue is used
	case regQueueDescLow:
		setLow(&q.Desc, v)
	case regQueueDescHigh:
		setHigh(&q.Desc, v)
	case regQueueDriverLow:
		setLow(&q.Avail, v)
	case regQueueDriverHigh:
		setHigh(&q.Avail, v)
	case regQueueDeviceLow:
		setLow(&q.Used, v)
	case regQueueDeviceHigh:
		setHigh(&q.Used, v)
	}
}

func setLow(r *uint64, v uint32)  { *r = *r&^0xffffffff | uint64(v) }
func setHigh(r *uint64, v uint32) { *r = *r&0xffffffff | uint64(v)<<32 }

// writeReady enables or disables a queue. The caller holds t.mu.
func (t *Transport) writeReady(q *queueRegisters, v uint32) {
	switch v {
	case 0:
		// The driver may free the queue's memory as soon as it reads back the zero.
		q.ready = false
		if t.active {
			if live := t.queues[t.regs.queueSel]; live != nil {
				live.Stop()
				t.queues[t.regs.queueSel] = nil
			}
		}
	case 1:
		if t.regs.status == statusNegotiated {
			q.ready = true // checked when the device is activated
		}
	}
}

// writeStatus lets the driver advance by setting bits in order, give up, or reset.
func (t *Transport) writeStatus(v uint32) {
	t.mu.Lock()
	var err error
	switch old := t.regs.status; {
	case v == 0:
		t.reset()
	case v&statusFailed != 0:
		t.deactivate()
		t.regs.status |= statusFailed
	case old == 0 && v == statusAcknowledged,
		old <= statusAcknowledged && v == statusDriverFound:
		t.regs.status = v
	case old == statusDriverFound && v == statusNegotiated:
		// The driver reads back whether the bit is set.
		if f := t.regs.driverFeatures; f&^t.offered == 0 && f&virtio.FeatureVersion1 != 0 {
			t.regs.status = v
		}
	case old == statusNegotiated && v == statusRunning:
		t.regs.status = v
		if err = t.start(); err != nil {
			t.stop()
		}
	}
	started := t.active && v == statusRunning
	t.mu.Unlock()
	if err != nil {
		t.tellStopped(err)
	}
	if started {
		// The driver may have filled queues before the device could be notified, and the device may
		// have waited for a driver.
		t.processAll()
	}
}

// start begins the driver's use of the device. The caller holds t.mu.
func (t *Transport) start() error {
	for i, q := range t.regs.queues {
		if q.ready && q.Size > t.maxSizes[i] {
			return fmt.Errorf("%w: queue %d of %d descriptors, at most %d", queue.ErrConfig, i, q.Size, t.maxSizes[i])
		}
	}
	return t.activate(nil)
}
