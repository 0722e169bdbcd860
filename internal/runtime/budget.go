package runtime

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
)

// Resources are all that a budget bounds, in a fixed order; what ledgers count by.
func Resources() []Resource {
	return []Resource{Sandboxes, MemoryMiB, SandboxSeconds, OutputBytes, VCPUSeconds, EgressBytes, Snapshots, Templates, KeptBytes}
}

// Of is the bound of a resource; 0 is none.
func (b Budget) Of(r Resource) int64 {
	if bound := b.Bound(r); bound != nil {
		return *bound
	}
	return 0
}

// Bound is the field that bounds a resource; nil if there is no such resource.
func (b *Budget) Bound(r Resource) *int64 {
	switch r {
	case Sandboxes:
		return &b.Sandboxes
	case MemoryMiB:
		return &b.MemoryMiB
	case SandboxSeconds:
		return &b.SandboxSeconds
	case OutputBytes:
		return &b.OutputBytes
	case VCPUSeconds:
		return &b.VCPUSeconds
	case EgressBytes:
		return &b.EgressBytes
	case Snapshots:
		return &b.Snapshots
	case Templates:
		return &b.Templates
	case KeptBytes:
		return &b.KeptBytes
	}
	return nil
}

func (b Budget) check() error {
	for _, r := range Resources() {
		if b.Of(r) < 0 {
			return fmt.Errorf("the budget of %s is negative", r)
		}
	}
	if b.Window < 0 {
		return errors.New("the budget's window is negative")
	}
	return nil
}

// within returns b with every bound at most that of limit.
func (b Budget) within(limit Budget) Budget {
	for _, r := range Resources() {
		if most, bound := limit.Of(r), b.Bound(r); most != 0 && (*bound == 0 || *bound > most) {
			*bound = most
		}
	}
	// A shorter window gives more, so the limit's own stands if it has one.
	if limit.Window != 0 && limit.Window > b.Window {
		b.Window = limit.Window
	}
	return b
}

// addsUp tells whether a resource is given back only when the window ends.
func (r Resource) addsUp() bool { return r != Sandboxes && r != MemoryMiB && !r.kept() }

// kept tells whether a resource is on disk, and given back when that is removed.
func (r Resource) kept() bool { return r == Snapshots || r == Templates || r == KeptBytes }

// unit is that in which a ledger counts one of the resource's own units.
func (r Resource) unit() int64 {
	if r == SandboxSeconds || r == VCPUSeconds {
		return int64(time.Second)
	}
	return 1
}

// ledger counts what is used of a budget. Its methods may be called concurrently.
type ledger struct {
	of    string  // "session" or "tenant"
	above *ledger // is charged too; may be nil

	mu     sync.Mutex
	budget Budget
	began  time.Time // of the window
	used   map[Resource]int64
}

func newLedger(of string, budget Budget, above *ledger) *ledger {
	return &ledger{of: of, budget: budget, above: above, began: time.Now(), used: map[Resource]int64{}}
}

// set changes the budget. What is used stays on the account.
func (l *ledger) set(budget Budget) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.budget = budget
}

// turn begins a new window if the last one has ended. The caller holds mu.
func (l *ledger) turn(now time.Time) {
	w := l.budget.Window
	if w <= 0 || now.Sub(l.began) < w {
		return
	}
	l.began = l.began.Add(now.Sub(l.began).Truncate(w))
	for _, r := range Resources() {
		if r.addsUp() {
			delete(l.used, r)
		}
	}
}

// claim is how much is taken of resources that are given back.
type claim map[Resource]int64

// reserve takes sandboxes and memory, all or nothing.
func (l *ledger) reserve(sandboxes, memoryMiB int64) *BudgetRefusal {
	return l.take(claim{Sandboxes: sandboxes, MemoryMiB: memoryMiB})
}

// release gives back what reserve took.
func (l *ledger) release(sandboxes, memoryMiB int64) {
	l.add(claim{Sandboxes: -sandboxes, MemoryMiB: -memoryMiB})
}

// take takes what c says, here and above, all or nothing.
func (l *ledger) take(c claim) *BudgetRefusal {
	if l == nil {
		return nil
	}
	if no := l.takeHere(c); no != nil {
		return no
	}
	if no := l.above.take(c); no != nil {
		l.addHere(c, -1)
		return no
	}
	return nil
}

func (l *ledger) takeHere(c claim) *BudgetRefusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range Resources() {
		if limit, want := l.budget.Of(r), c[r]; limit > 0 && want > 0 && want > limit-l.used[r] {
			return l.refusal(r, want)
		}
	}
	for r, n := range c {
		l.used[r] += n
	}
	return nil
}

// add takes what c says, here and above, whatever the bounds are; what is negative is given back.
func (l *ledger) add(c claim) {
	for ; l != nil; l = l.above {
		l.addHere(c, 1)
	}
}

func (l *ledger) addHere(c claim, sign int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for r, n := range c {
		l.used[r] += sign * n
	}
}

// spend adds to what adds up, in the ledger's unit, though it may exceed the bound.
func (l *ledger) spend(r Resource, amount int64) {
	now := time.Now()
	for ; l != nil && amount != 0; l = l.above {
		l.mu.Lock()
		l.turn(now)
		l.used[r] += min(amount, math.MaxInt64-l.used[r])
		l.mu.Unlock()
	}
}

// exhausted returns the first resource that adds up of which nothing is left, or nil.
func (l *ledger) exhausted() *BudgetRefusal {
	now := time.Now()
	for ; l != nil; l = l.above {
		if no := l.exhaustedHere(now); no != nil {
			return no
		}
	}
	return nil
}

func (l *ledger) exhaustedHere(now time.Time) *BudgetRefusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn(now)
	for _, r := range Resources() {
		if limit := l.budget.Of(r); r.addsUp() && limit > 0 && l.used[r]/r.unit() >= limit {
			no := l.refusal(r, 1)
			return no
		}
	}
	return nil
}

// bounds tells whether a resource is bounded here or above.
func (l *ledger) bounds(r Resource) bool {
	for ; l != nil; l = l.above {
		l.mu.Lock()
		limit := l.budget.Of(r)
		l.mu.Unlock()
		if limit > 0 {
			return true
		}
	}
	return false
}

// refusal describes r. The caller holds mu.
func (l *ledger) refusal(r Resource, wanted int64) *BudgetRefusal {
	line := l.line(r)
	no := &BudgetRefusal{Of: l.of, Resource: r, Limit: line.Limit, Used: line.Used, Left: line.Left, Wanted: wanted}
	if r.addsUp() {
		no.More = l.windowEnds()
	}
	return no
}

func (l *ledger) line(r Resource) BudgetLine {
	b := BudgetLine{Resource: r, Limit: l.budget.Of(r), Used: l.used[r] / r.unit()}
	b.Left = max(0, b.Limit-b.Used)
	return b
}

func (l *ledger) windowEnds() *time.Time {
	if l.budget.Window <= 0 {
		return nil
	}
	t := l.began.Add(l.budget.Window).UTC()
	return &t
}

func (l *ledger) state() BudgetState {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn(time.Now())
	s := BudgetState{Lines: []BudgetLine{}, WindowEnds: l.windowEnds()}
	for _, r := range Resources() {
		if l.budget.Of(r) > 0 {
			s.Lines = append(s.Lines, l.line(r))
		}
	}
	return s
}

// err is the error of a call that b refuses. reap is when the next sandbox will be reaped, if any.
func (b *BudgetRefusal) err(op string, reap *time.Time) *Error {
	no := *b
	cause := fmt.Sprintf("the %s's budget of %s is %d: %d used, %d left, %d wanted", no.Of, no.Resource, no.Limit, no.Used, no.Left, no.Wanted)
	remedy := "kill a sandbox that is not needed"
	switch {
	case no.Resource == Snapshots:
		remedy = "remove a snapshot that is not needed, or ask for a larger budget"
	case no.Resource == Templates:
		remedy = "remove a template that is not needed, also one that the new one would replace, or ask for a larger budget"
	case no.Resource == KeptBytes:
		remedy = "remove snapshots or templates that are not needed, or ask for a larger budget"
	case no.Resource.addsUp():
		remedy = "it does not come back in this session; open another one, or ask for a larger budget"
		cause = fmt.Sprintf("the %s's budget of %s is used up: %d of %d", no.Of, no.Resource, no.Used, no.Limit)
	default:
		no.More = reap
	}
	if no.More != nil {
		wait := max(0, time.Until(*no.More)).Round(time.Second)
		if no.Resource.addsUp() {
			remedy = fmt.Sprintf("try again in %s, when the window ends", wait)
		} else {
			remedy += fmt.Sprintf(", or try again in %s, when one may be reaped", wait)
		}
	}
	return &Error{Code: CodeBudget, Op: op, Cause: cause, Remedy: remedy, Budget: &no}
}
