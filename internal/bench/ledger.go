package bench

import "fmt"

// How often in a row a step, or the steps of a system in general, may fail before no more are tried.
const (
	stepFailures   = 3
	systemFailures = 6
)

// slot is one execution of a step that is due.
type slot struct {
	system, step string
	round        int
}

// ledger is what has been done, as the sample file tells it. It is rebuilt from the file when a
// bench is taken up again, so there is no second record that could disagree with it.
type ledger struct {
	done     map[slot]bool
	attempts map[slot]int // how often begun
	failing  map[slot]bool
	// dropped holds reasons by system and step; the step "" stands for the whole system.
	dropped map[[2]string]string
	// failures in a row, by the same keys.
	failures map[[2]string]int
}

func newLedger(samples []Sample) *ledger {
	l := &ledger{
		done:     map[slot]bool{},
		attempts: map[slot]int{},
		failing:  map[slot]bool{},
		dropped:  map[[2]string]string{},
		failures: map[[2]string]int{},
	}
	for _, s := range samples {
		l.add(s)
	}
	return l
}

func (s Sample) slot() slot { return slot{s.System, s.Step, s.Round} }

// add takes note of a line of the sample file.
func (l *ledger) add(s Sample) {
	at := s.slot()
	if s.Kind == KindDropped {
		l.dropped[[2]string{s.System, s.Step}] = s.reason()
		return
	}
	if s.Attempt >= l.attempts[at] {
		l.attempts[at] = s.Attempt + 1
		l.failing[at] = false
	}
	switch s.Kind {
	case KindFailure:
		l.failing[at] = true
	case KindDone:
		l.done[at] = true
		for _, key := range [][2]string{{s.System, s.Step}, {s.System, ""}} {
			if l.failing[at] {
				l.failures[key]++
			} else {
				l.failures[key] = 0
			}
		}
	}
}

// reason of a drop, for people.
func (s Sample) reason() string {
	if s.Error != "" {
		return s.Error
	}
	return s.Note
}

// due tells whether a slot is still to be executed.
func (l *ledger) due(at slot) bool {
	if l.done[at] {
		return false
	}
	_, step := l.dropped[[2]string{at.system, at.step}]
	_, system := l.dropped[[2]string{at.system, ""}]
	return !step && !system
}

// giveUp tells whether failures in a row are reason to drop the step, or the system.
func (l *ledger) giveUp(at slot) (drop Sample, yes bool) {
	drop = Sample{System: at.system, Round: at.round, Kind: KindDropped}
	switch {
	case l.failures[[2]string{at.system, ""}] >= systemFailures:
		drop.Error = fmt.Sprintf("%d steps in a row failed", systemFailures)
		return drop, true
	case l.failures[[2]string{at.system, at.step}] >= stepFailures:
		drop.Step = at.step
		drop.Error = fmt.Sprintf("failed %d times in a row", stepFailures)
		return drop, true
	}
	return Sample{}, false
}

// markInterrupted marks the samples of attempts that have no end.
func markInterrupted(samples []Sample) {
	type attempt struct {
		slot
		n int
	}
	ended := map[attempt]bool{}
	for _, s := range samples {
		if s.Kind == KindDone {
			ended[attempt{s.slot(), s.Attempt}] = true
		}
	}
	for i := range samples {
		s := &samples[i]
		s.Interrupted = s.Kind != KindDropped && !ended[attempt{s.slot(), s.Attempt}]
	}
}
