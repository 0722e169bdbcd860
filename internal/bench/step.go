package bench

import (
	"context"
	"errors"
	"slices"
	"time"
)

// step is something that is done to every system, once in each of its rounds.
type step struct {
	name string
	axis Axis
	// rounds tells in which of so many rounds the step is done: n of them from first on.
	rounds func(runs int) (first, n int)
	// limit bounds one execution, the closing of sandboxes apart.
	limit time.Duration
	run   func(ctx context.Context, s *session) error
}

// steps in the order in which they are done in a round. Steps that can hurt the host come last.
func steps() []step {
	return []step{
		{"start.cold", AxisStart, everyRound, 2 * time.Minute, stepCold},
		{"start.python", AxisStart, everyRound, 2 * time.Minute, stepPython},
		{"start.exec", AxisStart, everyRound, 3 * time.Minute, stepExec},
		{"start.burst8", AxisStart, everyRound, 5 * time.Minute, stepBurst},
		{"start.stream50", AxisStart, everyRound, 3 * time.Minute, stepStream},
		{"density.sweep", AxisDensity, firstRounds, 10 * time.Minute, stepDensity},
		{"snapshot.pause", AxisSnapshot, everyRound, 3 * time.Minute, stepPause},
		{"snapshot.cycle", AxisSnapshot, everyRound, 10 * time.Minute, stepSnapshot},
		{"snapshot.copies", AxisSnapshot, everyRound, 10 * time.Minute, stepCopies},
		{"control.jobs", AxisControl, lastRound, 20 * time.Minute, stepJobs},
		{"control.agent", AxisControl, lastRound, 40 * time.Minute, stepAgent},
		{"isolation.probes", AxisIsolation, lastRound, 5 * time.Minute, stepProbes},
		{"isolation.bombs", AxisIsolation, lastRound, 10 * time.Minute, stepBombs},
	}
}

func everyRound(runs int) (first, n int) { return 0, runs }

// firstRounds is for what is slow.
func firstRounds(runs int) (first, n int) { return 0, min(runs, densityRuns) }

// lastRound is for what does not vary, and is better done when all else has been measured.
func lastRound(runs int) (first, n int) { return runs - 1, 1 }

// schedule is the order of all slots. In each round each step is done to every system before the
// next step, so that what disturbs the host for a while disturbs all systems alike; and who is
// first changes from round to round, so that no system always runs in the wake of the same other.
func schedule(p plan) []slot {
	systems := p.available()
	var out []slot
	for round := range p.Runs {
		for _, st := range steps() {
			if first, n := st.rounds(p.Runs); !slices.Contains(p.Axes, st.axis) || round < first || round >= first+n {
				continue
			}
			for i := range systems {
				out = append(out, slot{systems[(i+round)%len(systems)], st.name, round})
			}
		}
	}
	return out
}

// available systems, sorted by name.
func (p plan) available() []string {
	var out []string
	for name, info := range p.Systems {
		if info.Available {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func stepByName(name string) step {
	all := steps()
	return all[slices.IndexFunc(all, func(s step) bool { return s.name == name })]
}

// noAbility says that a system does not offer what a step measures. That is a finding, not a
// failure: the step is not tried again.
type noAbility struct{ what string }

func (e *noAbility) Error() string { return e.what }

func lacks(what string) error { return &noAbility{what} }

func isNoAbility(err error) bool {
	var e *noAbility
	return errors.As(err, &e)
}
