package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// record keeps all samples. It is for one goroutine at a time.
type record struct {
	kinds []*kind
}

// kind is one way to make a copy, with the samples of each of its steps.
type kind struct {
	name  string
	steps []*step
}

type step struct {
	name        string
	took, until []time.Duration // of the step itself, and from the copy's beginning to the step's end
}

// laps is one copy in the making.
type laps struct {
	record *record
	kind   string
	begin  time.Time
	sum    time.Duration
}

// start begins the measuring of a copy.
func (r *record) start(kind string) *laps { return &laps{record: r, kind: kind, begin: time.Now()} }

// lap ends a step.
func (l *laps) lap(name string) { l.lapAt(name, time.Now()) }

// lapAt ends a step at some time before.
func (l *laps) lapAt(name string, at time.Time) { l.add(name, max(0, at.Sub(l.begin)-l.sum)) }

func (l *laps) add(name string, took time.Duration) {
	l.sum += took
	s := l.record.step(l.kind, name)
	s.took, s.until = append(s.took, took), append(s.until, l.sum)
	fmt.Printf("BenchmarkFork/way=%s/step=%s 1 %d ns/op\n", strings.ReplaceAll(l.kind, " ", "/"), name, took.Nanoseconds())
}

func (r *record) step(kindName, stepName string) *step {
	i := slices.IndexFunc(r.kinds, func(k *kind) bool { return k.name == kindName })
	if i < 0 {
		i = len(r.kinds)
		r.kinds = append(r.kinds, &kind{name: kindName})
	}
	k := r.kinds[i]
	j := slices.IndexFunc(k.steps, func(s *step) bool { return s.name == stepName })
	if j < 0 {
		j = len(k.steps)
		k.steps = append(k.steps, &step{name: stepName})
	}
	return k.steps[j]
}

// p50 is the median: of an even number, the lower one of the middle.
func p50(list []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[(len(sorted)-1)/2]
}

// table prints the medians, and what each is in terms of the floor's.
func (r *record) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "way\tstep\tn\tp50 of the step, ms\tp50 until its end, ms\ttimes the floor\t")
	floors := map[string]time.Duration{}
	for _, k := range r.kinds {
		if size, ok := strings.CutPrefix(k.name, "floor "); ok {
			floors[size] = p50(k.steps[len(k.steps)-1].until)
		}
	}
	for _, k := range r.kinds {
		base := floors[memoryOf(k.name)]
		for _, s := range k.steps {
			ratio := "-"
			if base > 0 {
				ratio = fmt.Sprintf("%.2f", float64(p50(s.until))/float64(base))
			}
			fmt.Fprintf(t, "%s\t%s\t%d\t%.3f\t%.3f\t%s\t\n", k.name, s.name, len(s.took), millis(p50(s.took)), millis(p50(s.until)), ratio)
		}
	}
	_ = t.Flush()
}

// memoryOf is the part of a kind's name that tells the guest's memory.
func memoryOf(name string) string {
	for word := range strings.FieldsSeq(name) {
		if strings.HasPrefix(word, "memory=") {
			return word
		}
	}
	return ""
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
