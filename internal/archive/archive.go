// Package archive copies directories as tar streams: out of a directory, and into one.
//
// Neither side trusts the other. What is unpacked stays within its directory, whatever names and links there are in the
// archive or were in the directory before: every name goes through an os.Root.
package archive

import (
	"errors"
	"fmt"
	"strings"
)

// Options say how to unpack.
type Options struct {
	// Fresh tells that the directory was made for this: it gets the permissions and the time of the one that was
	// packed.
	Fresh bool
	// Bytes of all files together, holes of sparse ones too, and Entries of all kinds. Zero is the most: MaxBytes
	// and MaxEntries. An archive that has more is refused.
	Bytes   int64
	Entries int
}

// The most that is unpacked.
const (
	MaxBytes   = 64 << 30
	MaxEntries = 1 << 20
)

func (o Options) withDefaults() Options {
	if o.Bytes <= 0 || o.Bytes > MaxBytes {
		o.Bytes = MaxBytes
	}
	if o.Entries <= 0 || o.Entries > MaxEntries {
		o.Entries = MaxEntries
	}
	return o
}

// ErrHostile is wrapped by errors about an archive that would leave its directory, or is too large.
var ErrHostile = errors.New("the archive is refused")

// Report says what was copied.
type Report struct {
	Files   int   `json:"files"` // regular ones
	Entries int   `json:"entries"`
	Bytes   int64 `json:"bytes"`
	// Skipped are what could not be copied, the first maxSkipped of them; SkippedMore is how many more there are.
	Skipped     []Skipped `json:"skipped,omitempty"`
	SkippedMore int       `json:"skipped_more,omitempty"`
}

// Skipped is an entry that was not copied.
type Skipped struct {
	Path string `json:"path"` // in the directory
	Why  string `json:"why"`
}

// maxSkipped and maxWhy, in bytes, keep a report short.
const (
	maxSkipped = 32
	maxWhy     = 256
)

func (r *Report) skip(path string, why error) {
	if len(r.Skipped) >= maxSkipped {
		r.SkippedMore++
		return
	}
	r.Skipped = append(r.Skipped, Skipped{cut(path), cut(why.Error())})
}

// Bound makes a report that somebody else has written as short as one of this package's.
func (r *Report) Bound() {
	r.Files, r.Entries, r.Bytes, r.SkippedMore = max(r.Files, 0), max(r.Entries, 0), max(r.Bytes, 0), min(max(r.SkippedMore, 0), MaxEntries)
	if more := len(r.Skipped) - maxSkipped; more > 0 {
		r.Skipped, r.SkippedMore = r.Skipped[:maxSkipped], r.SkippedMore+more
	}
	for i, s := range r.Skipped {
		r.Skipped[i] = Skipped{cut(s.Path), cut(s.Why)}
	}
}

func cut(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxWhy)], "\uFFFD") }

// Err is an error if something was skipped.
func (r Report) Err() error {
	n := len(r.Skipped) + r.SkippedMore
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d of the entries were not copied, the first: %q: %s", n, r.Skipped[0].Path, r.Skipped[0].Why)
}
