package bench

import (
	"fmt"
	"slices"
	"strings"
)

// summarise computes everything that summary.json holds from the plan and the samples, and from
// nothing else, so that it can be done again at any time.
func summarise(p plan, samples []Sample) *Results {
	r := &Results{
		Schema:        Schema,
		AetherVersion: p.AetherVersion,
		RubricVersion: rubricVersion(),
		Started:       p.Started,
		Runs:          p.Runs,
		Axes:          p.Axes,
		Spec:          p.Spec,
		Host:          p.Host,
		Systems:       map[string]*System{},
	}
	l := newLedger(samples)
	r.Complete = true
	for _, at := range schedule(p) {
		r.Complete = r.Complete && !l.due(at)
	}
	if r.Complete {
		r.Finished = p.Started
		if len(samples) > 0 {
			r.Finished = samples[len(samples)-1].Time
		}
	}
	for name, info := range p.Systems {
		r.Systems[name] = summariseSystem(name, info, samples, l)
	}
	for name, system := range r.Systems {
		system.Axes = r.scores(name, system)
	}
	return r
}

func summariseSystem(name string, info planInfo, samples []Sample, l *ledger) *System {
	s := &System{
		Available: info.Available, Reason: info.Reason, Remedy: info.Remedy,
		Version: info.Version, Accelerator: info.Accelerator, Notes: slices.Clone(info.Notes),
	}
	if !info.Available {
		return s
	}
	if reason, ok := l.dropped[[2]string{name, ""}]; ok {
		s.Reason = "measuring was given up: " + reason
	}
	all := seriesOf(samples, name)
	s.Metrics = all.metrics()
	failed := failures(samples, name)
	s.Stats = map[string]Stat{}
	for series, vs := range all {
		if isCurve(series) {
			continue
		}
		st := describe(values(vs), vs[0].Unit)
		st.Failed = failed[vs[0].Step].n
		s.Stats[series] = st
	}
	s.Notes = append(s.Notes, notes(samples, name, failed)...)
	return s
}

// failure counts the failed rounds of a step.
type failure struct {
	n    int
	last string
}

func failures(samples []Sample, system string) map[string]failure {
	out := map[string]failure{}
	rounds := map[slot]bool{}
	for _, s := range samples {
		if s.System != system || s.Kind != KindFailure || s.Interrupted {
			continue
		}
		f := out[s.Step]
		f.last = s.Error
		if !rounds[s.slot()] {
			rounds[s.slot()] = true
			f.n++
		}
		out[s.Step] = f
	}
	return out
}

// notes says what a reader of a system's figures must know, in the order of the steps.
func notes(samples []Sample, system string, failed map[string]failure) []string {
	var out []string
	for _, st := range steps() {
		if f, ok := failed[st.name]; ok {
			out = append(out, fmt.Sprintf("%s: %s failed; the last time: %s", st.name, plural(f.n, "run"), f.last))
		}
	}
	seen := map[string]bool{}
	for _, s := range samples {
		if s.System != system || s.Interrupted {
			continue
		}
		var note string
		switch {
		case s.Kind == KindDropped && s.Step != "":
			note = fmt.Sprintf("%s: not measured further: %s", s.Step, s.reason())
		case s.Kind == KindValue && s.Note != "" && s.Name != "control.job" && s.Name != "control.error" && !strings.HasPrefix(s.Name, "control.agent_"):
			note = fmt.Sprintf("%s: %s", s.Name, s.Note)
		}
		if note != "" && !seen[note] {
			seen[note] = true
			out = append(out, note)
		}
	}
	return out
}

// plural is the count and the noun, in its plural unless there is one.
func plural(n int, noun string) string {
	switch {
	case n == 1:
		return "1 " + noun
	case strings.HasSuffix(noun, "x"):
		return fmt.Sprintf("%d %ses", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
