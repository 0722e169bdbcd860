package guestmem

import (
	"cmp"
	"slices"
)

// span is a run of bytes of RAM, counted without the hole; whole pages. Lists of them ascend, without overlaps.
type span struct{ start, end uint64 }

// total is the size of runs in bytes.
func total(spans []span) (n uint64) {
	for _, s := range spans {
		n += s.end - s.start
	}
	return n
}

// union joins two lists of runs.
func union(a, b []span) []span {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(x, y span) int { return cmp.Compare(x.start, y.start) })
	out := all[:0]
	for _, s := range all {
		if n := len(out); n > 0 && s.start <= out[n-1].end {
			out[n-1].end = max(out[n-1].end, s.end)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// subtract returns what of a is not in b.
func subtract(a, b []span) (out []span) {
	for _, s := range a {
		for len(b) > 0 && b[0].end <= s.start {
			b = b[1:]
		}
		for _, cut := range b {
			if cut.start >= s.end {
				break
			}
			if cut.start > s.start {
				out = append(out, span{s.start, cut.start})
			}
			s.start = cut.end
		}
		if s.start < s.end {
			out = append(out, s)
		}
	}
	return out
}

// joinGaps joins runs between which there are no more than so many bytes.
func joinGaps(spans []span, gap uint64) []span {
	out := slices.Clone(spans[:1])
	for _, s := range spans[1:] {
		if last := &out[len(out)-1]; s.start-last.end <= gap {
			last.end = s.end
		} else {
			out = append(out, s)
		}
	}
	return out
}

func appendSpan(spans []span, s span) []span {
	if n := len(spans); n > 0 && spans[n-1].end == s.start {
		spans[n-1].end = s.end
		return spans
	}
	return append(spans, s)
}
