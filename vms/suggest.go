package vms

import (
	"fmt"
	"strings"
)

// UnknownNameError says that a name is not known, which one is nearest to it, and which there are.
type UnknownNameError struct {
	Kind       string   // what the name was meant to name: "system", "axis", "weights"
	Name       string   // as it was given
	Suggestion string   // the nearest known name
	Known      []string // all canonical names, in their fixed order
}

// Error is one line.
func (e *UnknownNameError) Error() string {
	name := e.Name
	if len(name) > maxQuoted {
		name = name[:maxQuoted] + "..."
	}
	return fmt.Sprintf("unknown %s %q: did you mean %q? (known: %s)",
		e.Kind, name, e.Suggestion, strings.Join(e.Known, ", "))
}

// maxQuoted bounds what of a foreign name is repeated in an error, and compared with known ones.
const maxQuoted = 64

// nearest returns the index of the candidate with the smallest edit distance to name; of several,
// the first.
func nearest(name string, candidates []string) int {
	if len(name) > maxQuoted {
		name = name[:maxQuoted]
	}
	best, bestDistance := 0, -1
	for i, c := range candidates {
		if d := distance(name, c); bestDistance < 0 || d < bestDistance {
			best, bestDistance = i, d
		}
	}
	return best
}

// distance is the optimal string alignment distance: insertions, deletions, substitutions and swaps of
// adjacent letters ("dokcer") cost one each. It counts bytes, since all known names are ASCII.
func distance(a, b string) int {
	before := make([]int, len(b)+1) // row i-2
	above := make([]int, len(b)+1)  // row i-1
	row := make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			substitution := above[j-1]
			if a[i-1] != b[j-1] {
				substitution++
			}
			row[j] = min(substitution, above[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above, row = above, row, before
	}
	return above[len(b)]
}
