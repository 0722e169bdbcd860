package machine

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"

	"github.com/aethervm/aether/internal/kvm"
)

// Reason says why a machine has ended.
type Reason string

// Reasons.
const (
	// PoweredOff: the guest has switched itself off.
	PoweredOff Reason = "powered off"
	// Rebooted: the guest has reset itself.
	Rebooted Reason = "rebooted"
	// Panicked: the guest's kernel says on the console that it has panicked.
	Panicked Reason = "kernel panic"
	// TripleFault: the guest could not handle a fault while it handled a fault.
	TripleFault Reason = "triple fault"
	// Failed: KVM could not go on with the guest; End.Err says why.
	Failed Reason = "failed"
	// Stopped: Machine.Stop or Close.
	Stopped Reason = "stopped"
)

// End is how a machine has ended.
type End struct {
	Reason Reason
	// Detail is the message of a panic or what was seen last, as the guest tells it.
	Detail string
	// Err is set for Failed.
	Err error
	// Console is the last part of what the guest wrote to its serial console.
	Console []byte
}

// String is a short form for messages.
func (e End) String() string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("%s: %v", e.Reason, e.Err)
	case e.Detail != "":
		return fmt.Sprintf("%s: %s", e.Reason, e.Detail)
	}
	return string(e.Reason)
}

// runVCPU is the life of a vCPU.
func (m *Machine) runVCPU(id int, vcpu *kvm.VCPU) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer m.leave()
	for {
		exit, err := vcpu.Run()
		switch {
		case errors.Is(err, kvm.ErrKicked):
			if !m.park(vcpu) {
				return
			}
			// Only here: after any other exit the next Run first completes what the guest was doing, so
			// that its state is whole.
		case err != nil:
			m.finish(End{Reason: Failed, Err: fmt.Errorf("vCPU %d: %w", id, err)})
			return
		default:
			if end, ok := m.handle(id, vcpu, &exit); ok {
				m.finish(end)
				return
			}
		}
	}
}

// handle serves an exit. It tells whether it is the machine's end.
func (m *Machine) handle(id int, vcpu *kvm.VCPU, exit *kvm.Exit) (End, bool) {
	switch exit.Reason {
	case kvm.ExitIO:
		switch m.bus.port(&exit.IO) {
		case wantsPowerOff:
			return End{Reason: PoweredOff}, true
		case wantsReset:
			return m.console.explain(End{Reason: Rebooted}), true
		}
		return End{}, false
	case kvm.ExitMMIO:
		if data := m.bus.mmio(&exit.MMIO); data != nil {
			vcpu.SetMMIOData(data)
		}
		return End{}, false
	case kvm.ExitIntr:
		return End{}, false
	case kvm.ExitShutdown:
		return m.console.explain(End{Reason: TripleFault}), true
	}
	err := fmt.Errorf("vCPU %d stopped: %v", id, exit)
	if regs, regsErr := vcpu.Regs(); regsErr == nil {
		err = fmt.Errorf("%w, at RIP %#x", err, regs.RIP)
	}
	return End{Reason: Failed, Err: err}, true
}

// finish ends the machine, unless something else has, and makes all vCPUs stop.
func (m *Machine) finish(end End) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == over {
		return
	}
	end.Console = m.console.tail()
	m.state, m.end = over, end
	m.changed.Broadcast()
	for _, vcpu := range m.vcpus {
		vcpu.Kick()
	}
	close(m.ended)
}

// leave is the end of a vCPU.
func (m *Machine) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running--
	m.changed.Broadcast()
}

// park holds a vCPU that was kicked for as long as the machine is paused. It tells whether to go on.
func (m *Machine) park(vcpu *kvm.VCPU) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == started && m.paused > 0 {
		m.running--
		m.changed.Broadcast()
		for m.state == started && m.paused > 0 {
			m.changed.Wait()
		}
		m.running++
		_ = vcpu.ClockPaused() // a courtesy: without it a watchdog in the guest may complain
	}
	return m.state == started
}

// Pause stops all vCPUs and devices until the matching Resume. When it returns, the guest's memory does
// not change any more but by the host's hand, and all accesses to devices are complete. Pauses nest.
// A machine that has ended can be paused as well.
func (m *Machine) Pause() {
	m.gate.Lock()
	defer m.gate.Unlock()
	m.mu.Lock()
	m.paused++
	for _, vcpu := range m.vcpus {
		vcpu.Kick()
	}
	m.mu.Unlock()
	// A vCPU may be busy with a queue that its guest keeps filling; pausing the device ends that.
	m.pauseDevices()
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.running > 0 {
		m.changed.Wait()
	}
}

// Resume ends a Pause.
func (m *Machine) Resume() {
	m.gate.Lock()
	defer m.gate.Unlock()
	m.mu.Lock()
	last := m.paused == 1
	ended := m.state == over
	m.mu.Unlock()
	if last && !ended {
		// While no vCPU runs, so that no queue is filled for ever.
		for _, d := range m.devices {
			d.Resume()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.paused = max(m.paused-1, 0)
	m.changed.Broadcast()
}

// Stop ends the machine at once, as pulling the plug does. It is idempotent; when it returns, no vCPU
// runs and no device uses the guest's memory.
func (m *Machine) Stop() {
	m.finish(End{Reason: Stopped})
	m.gate.Lock()
	defer m.gate.Unlock()
	m.pauseDevices()
	m.threads.Wait()
}

func (m *Machine) pauseDevices() {
	for _, d := range m.devices {
		d.Pause()
	}
}

// panicMark is how Linux begins the message of a panic.
var panicMark = []byte("Kernel panic - not syncing: ")

// explain makes a panic of an end of which the console says so: a kernel that panics resets the
// machine. A program in the guest can say so too, and deceives nobody but its owner.
func (c *console) explain(end End) End {
	text := c.tail()
	at := bytes.LastIndex(text, panicMark)
	if at < 0 {
		return end
	}
	line, _, _ := bytes.Cut(text[at+len(panicMark):], []byte("\n"))
	return End{Reason: Panicked, Detail: string(bytes.TrimSpace(line))}
}
