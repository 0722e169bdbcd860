package vms

import (
	"cmp"
	"slices"
)

// Profile is what is known of a system and how it scores.
type Profile struct {
	VM VM `json:"vm"`
	// Fitness is the mean of the five scores, 0 to 1, by the weights that the profile was ranked
	// with; the unweighted mean in a profile that has not been ranked.
	Fitness float64 `json:"fitness"`
	// Axes are the scores that the rubric computed from Evidence.
	Axes     Scores     `json:"axes"`
	Evidence []Evidence `json:"evidence"`
}

// NewProfile scores evidence about a system. It keeps a copy of the evidence.
func NewProfile(vm VM, evidence []Evidence) Profile {
	p := Profile{VM: vm, Evidence: clone(evidence)}
	p.Axes = scoreAll(MetricsOf(p.Evidence))
	p.Fitness = Equal().Fitness(p.Axes)
	return p
}

// Profile is the system's profile from curated evidence. Each call returns a fresh copy. Of a VM
// that is not valid nothing is known, and it scores 0.
func (vm VM) Profile() Profile { return NewProfile(vm, curated(vm)) }

// Profiles returns the curated profiles of all systems in their fixed order.
func Profiles() []Profile {
	profiles := make([]Profile, 0, len(All()))
	for _, vm := range All() {
		profiles = append(profiles, vm.Profile())
	}
	return profiles
}

// Gaps names the metrics that the rubric asks for and that no evidence gives, axis by axis. Each
// earns nothing.
func (p Profile) Gaps() []string {
	metrics := MetricsOf(p.Evidence)
	var gaps []string
	for _, a := range Axes() {
		gaps = append(gaps, Gaps(a, metrics)...)
	}
	return gaps
}

// Rank returns the curated profiles, best first by fitness under weights. Systems that are equally
// fit stay in their fixed order.
func Rank(weights Weights) []Profile { return RankProfiles(Profiles(), weights) }

// RankProfiles returns copies of profiles, best first by fitness under weights, which their Fitness
// then is. Of the equally fit the fixed order of systems decides, then the order given.
func RankProfiles(profiles []Profile, weights Weights) []Profile {
	ranked := make([]Profile, len(profiles))
	for i, p := range profiles {
		p.Evidence = clone(p.Evidence)
		p.Fitness = weights.Fitness(p.Axes)
		ranked[i] = p
	}
	slices.SortStableFunc(ranked, func(a, b Profile) int {
		return cmp.Or(cmp.Compare(b.Fitness, a.Fitness), cmp.Compare(a.VM, b.VM))
	})
	return ranked
}

// Comparison is the difference of two profiles: positive where A is the fitter.
type Comparison struct {
	A       VM      `json:"a"`
	B       VM      `json:"b"`
	Fitness float64 `json:"fitness"`
	Axes    Scores  `json:"axes"`
}

// Compare compares two systems by their curated profiles, all axes weighing the same.
func Compare(a, b VM) Comparison { return CompareProfiles(a.Profile(), b.Profile()) }

// CompareProfiles compares two profiles as they are; their fitness should be by the same weights.
func CompareProfiles(a, b Profile) Comparison {
	c := Comparison{A: a.VM, B: b.VM, Fitness: round(a.Fitness - b.Fitness)}
	for _, axis := range Axes() {
		*c.Axes.at(axis) = round(a.Axes.Of(axis) - b.Axes.Of(axis))
	}
	return c
}
