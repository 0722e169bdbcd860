package report

import (
	"cmp"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aethervm/aether/internal/bench"
	"github.com/aethervm/aether/vms"
)

// measured is a system with figures, in the order in which the page shows it.
type measured struct {
	id    string
	title string
	color int
	*bench.System
}

// label names the system in plots and tables. Software emulation is part of the name wherever a
// figure is shown, so that it is never read as one of hardware virtualisation.
func (m measured) label() string {
	if emulated(m.Accelerator) {
		return m.title + " (TCG)"
	}
	return m.title
}

func emulated(accelerator string) bool { return strings.EqualFold(accelerator, "tcg") }

// order returns the names of all systems in r: the known ones in their fixed order, then others.
func order(r *bench.Results) []string {
	position := func(name string) int {
		if vm, err := vms.Parse(name); err == nil && vm.Name() == name {
			return int(vm)
		}
		return len(vms.All()) + 1
	}
	return slices.SortedFunc(maps.Keys(r.Systems), func(a, b string) int {
		return cmp.Or(cmp.Compare(position(a), position(b)), cmp.Compare(a, b))
	})
}

func title(name string) string {
	if vm, err := vms.Parse(name); err == nil && vm.Name() == name {
		return vm.DisplayName()
	}
	return name
}

// systemsOf splits the systems into those with figures and those without.
func systemsOf(r *bench.Results) (with []measured, without []absentSystem) {
	for i, name := range order(r) {
		s := r.Systems[name]
		color := i
		if vm, err := vms.Parse(name); err == nil {
			color = int(vm) - 1
		}
		if s.Available && len(s.Metrics) > 0 {
			with = append(with, measured{name, title(name), color % systemColors, s})
			continue
		}
		a := absentSystem{Title: title(name), Reason: s.Reason, Remedy: s.Remedy}
		if a.Reason == "" {
			a.Reason = "available, but nothing was measured"
		}
		without = append(without, a)
	}
	return with, without
}

func build(r *bench.Results) (page, error) {
	with, without := systemsOf(r)
	p := page{
		Title:   "Sandboxes for agents, measured",
		Lead:    lead(r, with),
		Facts:   facts(r),
		Ranking: ranking(with),
		Absent:  without,
		Method:  method(),
		Version: "aether " + r.AetherVersion,
	}
	for _, axis := range vms.Axes() {
		p.AxisNames = append(p.AxisNames, axisTexts[axis].short)
	}
	if !r.Complete {
		p.Warnings = append(p.Warnings, "These results are not complete: the bench was interrupted. "+
			"The same aether bench with --out and this directory goes on from there.")
	}
	for _, m := range with {
		if emulated(m.Accelerator) {
			p.Warnings = append(p.Warnings, m.title+" ran under software emulation (TCG), not under KVM: "+
				"its times say nothing about the same system with hardware virtualisation.")
		}
		if m.Reason != "" {
			p.Warnings = append(p.Warnings, m.title+": "+m.Reason)
		}
	}
	p.Nav = append(p.Nav, link{"ranking", "Ranking"})
	for _, axis := range vms.Axes() {
		section, err := buildAxis(r, axis, with)
		if err != nil {
			return p, err
		}
		p.Axes = append(p.Axes, section)
		p.Nav = append(p.Nav, link{section.ID, section.Title})
	}
	p.Nav = append(p.Nav, link{"evidence", "Scores"}, link{"absent", "Not measured"}, link{"method", "Method"})
	p.RubricText, p.Evidence = evidence(r, with)
	return p, nil
}

func lead(r *bench.Results, with []measured) string {
	if len(with) == 0 {
		return "Nothing was measured."
	}
	var names []string
	for _, m := range with {
		names = append(names, m.label())
	}
	return fmt.Sprintf("%s: measured side by side on one host, %s, on %s.",
		enumerate(names), plural(r.Runs, "round"), day(r.Started))
}

func enumerate(items []string) string {
	if n := len(items); n > 1 {
		return strings.Join(items[:n-1], ", ") + " and " + items[n-1]
	}
	return strings.Join(items, "")
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return number(float64(n)) + " " + noun + "s"
}

func day(t time.Time) string { return t.UTC().Format("2 January 2006") }

func facts(r *bench.Results) []fact {
	var out []fact
	add := func(name, value string) {
		if value != "" {
			out = append(out, fact{name, value})
		}
	}
	h := r.Host
	add("Processor", h.CPU)
	add("Logical CPUs", number(float64(h.CPUs)))
	add("Memory", number(float64(h.MemoryMiB))+" MiB")
	add("Kernel", strings.TrimSpace(h.Kernel+" "+h.Arch))
	add("Distribution", h.OS)
	for _, name := range slices.Sorted(maps.Keys(h.Facts)) {
		add(name, h.Facts[name])
	}
	add("Started", clock(r))
	if !r.Finished.IsZero() {
		add("Took", r.Finished.Sub(r.Started).Round(time.Second).String())
	}
	add("aether", r.AetherVersion)
	add("Rubric", r.RubricVersion)
	add("Each sandbox", fmt.Sprintf("%s, %s MiB, network %s", plural(r.Spec.VCPUs, "vCPU"), number(float64(r.Spec.MemoryMiB)), r.Spec.Network))
	digest := r.Spec.ImageDigest
	add("Image", digest[:min(len(digest), len("sha256:")+12)])
	return out
}

// ranking orders the systems by fitness; those that lack an axis come last, those with more axes
// first.
func ranking(with []measured) []rankRow {
	var rows []rankRow
	for _, m := range with {
		row := rankRow{
			Title: m.title, Version: m.Version, Accelerator: m.Accelerator, Emulated: emulated(m.Accelerator),
			Color:   template.CSS(fmt.Sprintf("var(--s%d)", m.color)),
			Fitness: "–",
		}
		var scores vms.Scores
		for _, axis := range vms.Axes() {
			score, ok := m.Axes[bench.Axis(axis.String())]
			c := scoreCell{Axis: axisTexts[axis].short, Known: ok}
			if ok {
				row.known++
				c.Text = fmt.Sprintf("%.3f", score)
				c.Percent = fmt.Sprintf("%.1f", 100*score)
				setScore(&scores, axis, score)
			}
			row.Scores = append(row.Scores, c)
		}
		if row.known == len(vms.Axes()) {
			row.fitness = vms.Equal().Fitness(scores)
			row.Fitness = fmt.Sprintf("%.3f", row.fitness)
		}
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, func(a, b rankRow) int {
		return cmp.Or(cmp.Compare(b.known, a.known), cmp.Compare(b.fitness, a.fitness))
	})
	return rows
}

func setScore(s *vms.Scores, axis vms.Axis, score float64) {
	switch axis {
	case vms.StartLatency:
		s.StartLatency = score
	case vms.Density:
		s.Density = score
	case vms.Isolation:
		s.Isolation = score
	case vms.Snapshotting:
		s.Snapshotting = score
	case vms.AgentControl:
		s.AgentControl = score
	}
}

func method() []string {
	return []string{
		"Every system is driven through the same interface by the same code, from the same root file system, with the same limits.",
		"A clock starts when the call is made and stops when a reply from guest user space has arrived: the exit status of a program that ran inside. A system that only reports itself ready has not stopped it.",
		"The systems are measured in turn within each round, and a different one begins each round, so that what disturbs the host disturbs all alike.",
		"No sample is dropped and nothing is trimmed. A failed run is counted as failed. A step that was interrupted is done again as a whole.",
		"Quantiles are by nearest rank: each is a value that was measured. The interval of the median is a 95% bootstrap interval with a fixed seed.",
		"Memory is proportional set size plus the kernel's own growth, never a sum of resident sizes; density is the slope over the number of idle sandboxes.",
		"An isolation probe that gives no answer is unknown, and unknown never counts as good.",
		"What ran under software emulation is labelled TCG and is not comparable with the same system under KVM.",
		"The raw samples, the probes' answers and the provoked errors lie beside this page; docs/METRICS.md and docs/RUBRIC.md tell what they mean.",
	}
}
