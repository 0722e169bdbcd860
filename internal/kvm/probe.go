package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"sync"
	"time"
)

// State says what /dev/kvm is worth.
type State string

const (
	// StateAbsent means that there is no device.
	StateAbsent State = "absent"
	// StateForbidden means that the device is there, this user may not open it.
	StateForbidden State = "no permission"
	// StateNotReal means that the device answers, but a guest's kernel cannot run under it at a usable speed,
	// or at all.
	StateNotReal State = "present but not real"
	// StateReal means that guest code runs on the processor in every ring that a kernel needs.
	StateReal State = "real"
)

// Check is one question that Probe asked, and the answer.
type Check struct {
	Name string `json:"name"`
	Pass bool   `json:"pass"`
	// Detail is what was seen.
	Detail string `json:"detail"`
	// NanosPerInstruction is the measured cost of a guest instruction, where the check timed one.
	NanosPerInstruction float64 `json:"ns_per_instruction,omitempty"`
}

// Reality is what Probe found out about /dev/kvm.
type Reality struct {
	State State `json:"state"`
	// Reason says how the state was found out; Remedy, what the user can do when it is not real.
	Reason string  `json:"reason"`
	Remedy string  `json:"remedy,omitempty"`
	Checks []Check `json:"checks,omitempty"`
	// UserMode tells that ring-3 guest code runs on the processor itself, which also holds where
	// ring 0 is emulated: micro-guests run there.
	UserMode bool `json:"user_mode"`
}

// Real tells whether guests with a kernel of their own can run.
func (r Reality) Real() bool { return r.State == StateReal }

const (
	// checkLimit bounds one check. An honest KVM needs well under a millisecond for each, also
	// when its host is itself emulated.
	checkLimit = time.Second
	// stuckLimit is how long a vCPU that was kicked may take to come back.
	stuckLimit = time.Second
)

// errStuck: a thread is in KVM_RUN and no signal gets it out.
var errStuck = errors.New("KVM_RUN does not return, not even after a signal")

// known keeps the answer of Probe: it cannot change while this process lives, short of someone
// loading a module, and asking costs VMs.
var known struct {
	sync.Mutex
	reality *Reality
}

// Probe finds out whether /dev/kvm is real by running guest code of a few bytes. It takes some
// milliseconds, never hangs, and leaves nothing behind. The answer is kept for the life of the
// process, unless ctx cut the probe short or the device could not be opened.
func Probe(ctx context.Context) (Reality, error) {
	known.Lock()
	defer known.Unlock()
	if known.reality != nil {
		return *known.reality, nil
	}
	r := probe(ctx)
	if err := ctx.Err(); err != nil {
		return Reality{}, fmt.Errorf("probe %s: %w", Device, err)
	}
	if len(r.Checks) > 0 {
		known.reality = &r
	}
	return r, nil
}

func probe(ctx context.Context) Reality {
	s, err := Open()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Reality{State: StateAbsent, Reason: err.Error(),
			Remedy: "use a machine with hardware virtualisation (or a VM with nested virtualisation) and load kvm_intel or kvm_amd"}
	case errors.Is(err, fs.ErrPermission):
		return Reality{State: StateForbidden, Reason: err.Error(),
			Remedy: fmt.Sprintf("run as root, or join the group that owns the device: usermod -aG kvm %s", userName())}
	case err != nil: // ENODEV, ENXIO: a device node without a driver behind it
		return Reality{State: StateNotReal, Reason: err.Error(), Remedy: "load kvm_intel or kvm_amd"}
	}
	defer func() { _ = s.Close() }()

	r := Reality{State: StateReal, Reason: "all checks passed"}
	for _, c := range checks {
		result := c.run(ctx, s)
		r.Checks = append(r.Checks, result)
		if c.name == checkUserLoop {
			r.UserMode = result.Pass
		}
		if !result.Pass && c.needed && r.State == StateReal {
			r.State = StateNotReal
			r.Reason = result.Name + ": " + result.Detail
			r.Remedy = "the host offers a software stand-in for KVM; use bare metal or a VM with nested hardware virtualisation, or software emulation"
		}
		if ctx.Err() != nil {
			break
		}
	}
	return r
}

func userName() string {
	id := strconv.Itoa(os.Getuid())
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// runBounded runs the guest until it exits, ctx ends or limit is over. When not even a kick ends
// it, errStuck is returned and the goroutine stays behind in the kernel with its thread; the guest
// must not be freed then.
func (c *VCPU) runBounded(ctx context.Context, limit time.Duration) (Exit, error) {
	type result struct {
		exit Exit
		err  error
	}
	done := make(chan result, 1)
	go func() {
		exit, err := c.Run()
		done <- result{exit, err}
	}()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case r := <-done:
		return r.exit, r.err
	case <-ctx.Done():
	}
	stuck := time.NewTimer(stuckLimit)
	defer stuck.Stop()
	c.Kick()
	select {
	case r := <-done:
		if errors.Is(r.err, ErrKicked) {
			r.err = fmt.Errorf("no exit within %v: %w", limit, ctx.Err())
		}
		return r.exit, r.err
	case <-stuck.C:
		return Exit{}, errStuck
	}
}
