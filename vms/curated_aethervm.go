package vms

// aetherVM has no figures of others to quote: it claims only what a test in this repository has
// measured, which so far is nothing.
func aetherVM() []Evidence {
	evidence := make([]Evidence, 0, len(Axes()))
	for _, a := range Axes() {
		evidence = append(evidence, Evidence{
			Axis:   a,
			Kind:   KindJudged,
			Claim:  "nothing measured yet in this repository, and nothing else counts, so every axis is 0",
			Source: "AetherVM repository, docs/RUBRIC.md, https://github.com/aethervm/aether",
			Date:   "2026-11",
		})
	}
	return evidence
}
