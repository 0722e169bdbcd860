package vms

import "fmt"

// Axis is one of the five that systems are judged on. The zero value is none of them.
type Axis uint8

// The axes in their fixed order.
const (
	StartLatency Axis = iota + 1
	Density
	Isolation
	Snapshotting
	AgentControl
)

var axisNames = [...]string{
	StartLatency: "start-latency",
	Density:      "density",
	Isolation:    "isolation",
	Snapshotting: "snapshotting",
	AgentControl: "agent-control",
}

// Axes returns the five axes in their fixed order.
func Axes() []Axis {
	return []Axis{StartLatency, Density, Isolation, Snapshotting, AgentControl}
}

// Valid reports whether a is one of the five.
func (a Axis) Valid() bool { return a >= StartLatency && a <= AgentControl }

// String is the name, for example "start-latency".
func (a Axis) String() string {
	if !a.Valid() {
		return fmt.Sprintf("Axis(%d)", uint8(a))
	}
	return axisNames[a]
}

// ParseAxis finds an axis by its name, with the tolerance of [Parse].
func ParseAxis(name string) (Axis, error) {
	var known, folded []string
	for _, a := range Axes() {
		if fold(name) == fold(a.String()) {
			return a, nil
		}
		known = append(known, a.String())
		folded = append(folded, fold(a.String()))
	}
	return 0, &UnknownNameError{
		Kind: "axis", Name: name, Suggestion: known[nearest(fold(name), folded)], Known: known,
	}
}

// MarshalText gives the name.
func (a Axis) MarshalText() ([]byte, error) {
	if !a.Valid() {
		return nil, fmt.Errorf("vms: %s is not an axis", a)
	}
	return []byte(a.String()), nil
}

// UnmarshalText takes what ParseAxis takes.
func (a *Axis) UnmarshalText(text []byte) error {
	parsed, err := ParseAxis(string(text))
	if err != nil {
		return err
	}
	*a = parsed
	return nil
}

// Scores holds one figure for each axis: a score from 0 to 1, or in a [Comparison] a difference of
// two scores.
type Scores struct {
	StartLatency float64 `json:"start-latency"`
	Density      float64 `json:"density"`
	Isolation    float64 `json:"isolation"`
	Snapshotting float64 `json:"snapshotting"`
	AgentControl float64 `json:"agent-control"`
}

// Of returns the figure of one axis; 0 for an axis that is not valid.
func (s Scores) Of(a Axis) float64 {
	if p := s.at(a); p != nil {
		return *p
	}
	return 0
}

func (s *Scores) at(a Axis) *float64 {
	switch a {
	case StartLatency:
		return &s.StartLatency
	case Density:
		return &s.Density
	case Isolation:
		return &s.Isolation
	case Snapshotting:
		return &s.Snapshotting
	case AgentControl:
		return &s.AgentControl
	}
	return nil
}
