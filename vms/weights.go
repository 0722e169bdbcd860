package vms

// Weights say how much each axis counts for a workload. They are non-negative and sum to 1. The zero
// value, [Equal], weighs all axes alike.
type Weights struct {
	id weightsID // the only field, so that no other weights than the named ones exist
}

type weightsID uint8

const (
	equal weightsID = iota
	oneShot
	codingAgent
	fanOut
	multiTenant
)

type workload struct {
	name   string
	about  string
	shares Scores
}

// The shares are in hundredths, in the order of the axes.
var workloads = [...]workload{
	equal: {
		"equal", "no workload in particular: every axis counts the same",
		Scores{20, 20, 20, 20, 20},
	},
	// Created, used once and thrown away: the start is most of what the user waits for; the code is
	// often generated and unread, so isolation comes second; there is nothing to save.
	oneShot: {
		"one-shot", "one program in a fresh sandbox, then thrown away",
		Scores{40, 15, 25, 5, 15},
	},
	// Lives for hours and is driven by hundreds of calls: how well it can be driven, and whether its
	// state can be saved and rolled back, matter more than the one start.
	codingAgent: {
		"coding-agent", "one sandbox that an agent works in for hours",
		Scores{5, 20, 20, 25, 30},
	},
	// Many children of one state at once: forks first, then what each child costs to start and keep.
	fanOut: {
		"fan-out", "many branches of one state, explored side by side",
		Scores{20, 25, 10, 35, 10},
	},
	// Strangers' code next to strangers' code: isolation is worth as much as all else together.
	multiTenant: {
		"multi-tenant", "untrusted code of many tenants on one host",
		Scores{15, 20, 50, 5, 10},
	},
}

// Equal weighs all axes alike: fitness is then the unweighted mean.
func Equal() Weights { return Weights{} }

// AllWeights returns the named weights, Equal first.
func AllWeights() []Weights {
	all := make([]Weights, len(workloads))
	for i := range all {
		all[i] = Weights{weightsID(i)}
	}
	return all
}

// ParseWeights finds weights by name, with the tolerance of [Parse]: equal, one-shot, coding-agent,
// fan-out, multi-tenant. The empty name is Equal.
func ParseWeights(name string) (Weights, error) {
	if name == "" {
		return Equal(), nil
	}
	var known, folded []string
	for _, w := range AllWeights() {
		if fold(name) == fold(w.Name()) {
			return w, nil
		}
		known = append(known, w.Name())
		folded = append(folded, fold(w.Name()))
	}
	return Weights{}, &UnknownNameError{
		Kind: "weights", Name: name, Suggestion: known[nearest(fold(name), folded)], Known: known,
	}
}

// Name is the name that ParseWeights takes.
func (w Weights) Name() string { return workloads[w.id].name }

// String is Name.
func (w Weights) String() string { return w.Name() }

// About describes the workload in a few words.
func (w Weights) About() string { return workloads[w.id].about }

// Of is the share of one axis, 0 to 1.
func (w Weights) Of(a Axis) float64 { return workloads[w.id].shares.Of(a) / 100 }

// Fitness is the weighted mean of scores, 0 to 1, in steps of 0.0001.
func (w Weights) Fitness(scores Scores) float64 {
	var sum float64
	for _, a := range Axes() {
		sum += workloads[w.id].shares.Of(a) * scores.Of(a)
	}
	return round(sum / 100)
}

// MarshalText gives the name.
func (w Weights) MarshalText() ([]byte, error) { return []byte(w.Name()), nil }

// UnmarshalText takes what ParseWeights takes.
func (w *Weights) UnmarshalText(text []byte) error {
	parsed, err := ParseWeights(string(text))
	if err != nil {
		return err
	}
	*w = parsed
	return nil
}
