package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/driver/all"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/vms"
)

// fleet is the drivers of all systems, for as long as a command runs.
type fleet struct {
	drivers []sandbox.Driver
}

// openFleet makes the drivers of all seven systems. Nothing is started; close must be called.
func (a *app) openFleet(opts all.Options) *fleet {
	opts.Log = a.logger()
	return &fleet{drivers: all.Drivers(opts)}
}

// close closes every driver, and with it every sandbox that is still open. It adds to err.
func (f *fleet) close(err *error) {
	errs := make([]error, len(f.drivers))
	var wg sync.WaitGroup
	for i, d := range f.drivers {
		wg.Go(func() { errs[i] = d.Close() })
	}
	wg.Wait()
	if closeErr := errors.Join(errs...); closeErr != nil && *err == nil {
		*err = failed(closeErr, "run `aether sweep`", "clean up: %v", closeErr)
	}
}

// driver finds the driver of a system by any name of it.
func (f *fleet) driver(name string) (sandbox.Driver, error) {
	vm, err := vms.Parse(name)
	if err != nil {
		return nil, unknownName(err)
	}
	for _, d := range f.drivers {
		if d.System() == vm.Name() {
			return d, nil
		}
	}
	return nil, unavailable("`aether doctor` lists what this host has", "there is no driver for %s", vm.DisplayName())
}

// unknownName turns the error about an unknown system, axis or weights into one of usage.
func unknownName(err error) error {
	if e := (*vms.UnknownNameError)(nil); errors.As(err, &e) {
		return usageError(fmt.Sprintf("did you mean %q? known: %s", e.Suggestion, strings.Join(e.Known, ", ")), "unknown %s %q", e.Kind, e.Name)
	}
	return usageError("", "%v", err)
}

// probe asks all drivers at once and returns the answers in the order of the drivers.
func (f *fleet) probe(ctx context.Context) []sandbox.Info {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	infos := make([]sandbox.Info, len(f.drivers))
	var wg sync.WaitGroup
	for i, d := range f.drivers {
		wg.Go(func() { infos[i] = d.Probe(ctx) })
	}
	wg.Wait()
	return infos
}

// swept is what was found of dead processes' sandboxes of one system.
type swept struct {
	System  string `json:"system"`
	Removed int    `json:"removed"`
	Error   string `json:"error,omitempty"`

	err error
}

// sweep removes what dead processes have left, of all systems at once.
func (f *fleet) sweep(ctx context.Context) []swept {
	out := make([]swept, len(f.drivers))
	var wg sync.WaitGroup
	for i, d := range f.drivers {
		wg.Go(func() {
			n, err := d.Sweep(ctx)
			out[i] = swept{System: d.System(), Removed: n, err: err}
			if err != nil {
				out[i].Error = err.Error()
			}
		})
	}
	wg.Wait()
	return out
}

// sweepFirst is sweep before another job: that something could not be removed does not stop it.
func (a *app) sweepFirst(ctx context.Context, f *fleet) {
	for _, s := range f.sweep(ctx) {
		switch {
		case s.err != nil && ctx.Err() == nil && !errors.Is(s.err, sandbox.ErrUnavailable):
			a.logger().Warn("could not remove what a dead process left", "system", s.System, "error", s.err)
		case s.Removed > 0:
			a.notice("removed what a dead process left: %s of %s", count(s.Removed, "sandbox", "sandboxes"), s.System)
		}
	}
}

// notice tells people what goes on, on standard error.
func (a *app) notice(format string, args ...any) {
	_, _ = fmt.Fprintf(a.err, "aether: %s\n", oneLine(fmt.Sprintf(format, args...)))
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
