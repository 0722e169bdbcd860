package vmm

import (
	"fmt"

	"github.com/aethervm/aether/internal/machine"
)

// Reason says why a guest has ended.
type Reason string

// Reasons.
const (
	// PoweredOff: the guest has switched itself off.
	PoweredOff = Reason(machine.PoweredOff)
	// Rebooted: the guest has reset itself, which ends it.
	Rebooted = Reason(machine.Rebooted)
	// Panicked: the guest's kernel says on the console that it has panicked.
	Panicked = Reason(machine.Panicked)
	// TripleFault: the guest could not handle a fault while it handled a fault.
	TripleFault = Reason(machine.TripleFault)
	// Failed: the processor could not go on with the guest; End.Err says why.
	Failed = Reason(machine.Failed)
	// Stopped: VM.Stop or Close.
	Stopped = Reason(machine.Stopped)
)

// End is how a guest has ended.
type End struct {
	Reason Reason
	// Detail is the message of a panic or what was seen last, as the guest tells it.
	Detail string
	// Err is set for Failed.
	Err error
	// Console is the last part of what the guest wrote to its serial console.
	Console []byte
}

func endOf(e machine.End) End {
	return End{Reason: Reason(e.Reason), Detail: e.Detail, Err: e.Err, Console: e.Console}
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
