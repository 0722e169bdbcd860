package runtime

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/vms"
)

// auto stands for the best system that this host has.
const auto = "auto"

// probeLife is how long it is believed that a system is not available. One that is available is
// believed until it fails to make a sandbox for that reason.
const probeLife = time.Minute

// systems chooses among the drivers, by the judge's ranking from curated evidence: it says what is
// best for the job, not what happens to be fast on this host.
type systems struct {
	preset  string // the system of requests that name none; auto or a canonical name
	ranking []vms.Profile
	drivers map[string]*probed
	scrub   func(string) string
}

type probed struct {
	driver sandbox.Driver

	probing chan struct{} // taken while the driver is being asked

	mu   sync.Mutex
	info sandbox.Info
	at   time.Time // zero: unknown
}

func newSystems(drivers []sandbox.Driver, preset string, scrub func(string) string) (*systems, error) {
	y := &systems{preset: auto, ranking: vms.Rank(vms.Equal()), drivers: map[string]*probed{}, scrub: scrub}
	for _, d := range drivers {
		y.drivers[d.System()] = &probed{driver: d, probing: make(chan struct{}, 1)}
	}
	if preset != "" && preset != auto {
		vm, err := vms.Parse(preset)
		if err != nil {
			return nil, unknownSystem("open", err)
		}
		y.preset = vm.Name()
	}
	return y, nil
}

func unknownSystem(op string, err error) error {
	e := &Error{Code: CodeInvalid, Op: op, Cause: err.Error(), Err: err}
	if u, ok := errors.AsType[*vms.UnknownNameError](err); ok {
		e.Cause = fmt.Sprintf("there is no system %q", u.Name)
		e.Remedy = fmt.Sprintf("did you mean %q? known: auto, %s", u.Suggestion, strings.Join(u.Known, ", "))
	}
	return e
}

// look asks the driver, or answers from what it said last.
func (p *probed) look(ctx context.Context) (sandbox.Info, error) {
	select {
	case p.probing <- struct{}{}:
		defer func() { <-p.probing }()
	case <-ctx.Done():
		return sandbox.Info{}, context.Cause(ctx)
	}
	p.mu.Lock()
	info, at := p.info, p.at
	p.mu.Unlock()
	if !at.IsZero() && (info.Available || time.Since(at) < probeLife) {
		return info, nil
	}
	info = p.driver.Probe(ctx)
	if ctx.Err() != nil { // it may have given up for that reason
		return info, context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.info, p.at = info, time.Now()
	return info, nil
}

func (p *probed) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = time.Time{}
}

// candidate is a system that may be tried, and why.
type candidate struct {
	*probed
	why string
}

// candidates yields the systems that a request for name may be made with, best first: of a name one,
// of auto all that are available. It stops when yield returns false, and probes no further.
func (y *systems) candidates(ctx context.Context, op, name string, yield func(candidate) bool) error {
	why := "asked for"
	if name == "" {
		name, why = y.preset, "set for this runtime"
	}
	if !strings.EqualFold(name, auto) {
		vm, err := vms.Parse(name)
		if err != nil {
			return unknownSystem(op, err)
		}
		p := y.drivers[vm.Name()]
		if p == nil {
			return refuse(CodeUnavailable, op, "use auto, or another system", "this runtime has no driver for %s", vm.DisplayName())
		}
		yield(candidate{p, why})
		return nil
	}
	var passed []string // free of paths: errors and SandboxInfo.Why show it
	any := false
	for i, profile := range y.ranking {
		p := y.drivers[profile.VM.Name()]
		if p == nil {
			passed = append(passed, profile.VM.Name()+": no driver")
			continue
		}
		info, err := p.look(ctx)
		if err != nil {
			return err
		}
		if !info.Available {
			passed = append(passed, profile.VM.Name()+": "+firstOf(y.scrub(info.Reason), "not available"))
			continue
		}
		any = true
		if !yield(candidate{p, reasonFor(profile, i+1, passed)}) {
			return nil
		}
		passed = append(passed, profile.VM.Name()+": cannot do what is asked for")
	}
	if !any {
		return refuse(CodeUnavailable, op, "`aether doctor` tells what is missing", "none of the systems is available on this host: %s", strings.Join(passed, "; "))
	}
	return nil
}

func reasonFor(p vms.Profile, rank int, passed []string) string {
	why := fmt.Sprintf("auto: rank %d of the judge's ranking, fitness %.2f", rank, p.Fitness)
	if rank == 1 {
		return why + ", the best there is"
	}
	return why + ", the best that is available here; passed over: " + strings.Join(passed, "; ")
}

// Choose tells which system a request for name, which may be "auto" or empty, would be made with, and
// why.
func (r *Runtime) Choose(ctx context.Context, name string) (choice Choice, err error) {
	const op = "choose"
	err = r.systems.candidates(ctx, op, name, func(c candidate) bool {
		choice.VM, err = vms.Parse(c.driver.System())
		choice.Why = r.scrub(c.why)
		return false
	})
	if err != nil {
		return Choice{}, r.translate(op, "", err)
	}
	return choice, nil
}

// Systems is the judge's ranking, with what this host has of it. The drivers are asked at the same
// time, which may take seconds the first time.
func (r *Runtime) Systems(ctx context.Context) ([]System, error) {
	list := make([]System, len(r.systems.ranking))
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, profile := range r.systems.ranking {
		list[i] = System{VM: profile.VM, Rank: i + 1, Fitness: profile.Fitness}
		p := r.systems.drivers[profile.VM.Name()]
		if p == nil {
			list[i].Reason = "this runtime has no driver for it"
			continue
		}
		wg.Go(func() {
			var info sandbox.Info
			info, errs[i] = p.look(ctx)
			list[i].Available, list[i].Version, list[i].Accelerator = info.Available, info.Version, info.Accelerator
			list[i].Reason, list[i].Remedy = r.scrubHost(info.Reason), r.scrubHost(info.Remedy)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, r.translate("systems", "", err)
	}
	return list, nil
}

// able names the systems here whose drivers make sandboxes from snapshots, for a remedy.
func (y *systems) able(ctx context.Context, except string) string {
	var names []string
	for _, profile := range y.ranking {
		p := y.drivers[profile.VM.Name()]
		if p == nil || p.driver.System() == except {
			continue
		}
		if _, ok := p.driver.(sandbox.Restorer); !ok {
			continue
		}
		if info, err := p.look(ctx); err == nil && info.Available {
			names = append(names, p.driver.System())
		}
	}
	if len(names) == 0 {
		return "no other system of this host can either"
	}
	return "create the sandbox with another system: " + strings.Join(names, ", ")
}
