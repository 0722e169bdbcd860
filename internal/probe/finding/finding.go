// Package finding is what an isolation probe answers, shared by the code that runs inside a sandbox
// and the code that judges outside.
package finding

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Verdict is what an answer means for isolation.
type Verdict string

const (
	// Better means that the sandbox keeps this from the guest.
	Better Verdict = "better"
	// Worse means that it does not.
	Worse Verdict = "worse"
	// Unknown means that it could not be found out. Unknown is not good.
	Unknown Verdict = "unknown"
)

// Finding is the answer of one probe.
type Finding struct {
	Name    string  `json:"name"`
	Value   string  `json:"finding"`
	Verdict Verdict `json:"verdict"`
	// Detail says how the verdict came about, or why there is none.
	Detail string `json:"detail,omitempty"`
	// Items are the single things that were found, sorted: system calls, devices, paths.
	Items []string `json:"items,omitempty"`
}

// Scope says whose property a probe asks about.
type Scope string

const (
	// ScopeKernel is power over the kernel that answers the guest. It is power over the host only
	// where that kernel is the host's; in a kernel of its own the guest may do as it likes.
	ScopeKernel Scope = "kernel"
	// ScopeSandbox is what the sandbox itself lets through, whatever kernel it has.
	ScopeSandbox Scope = "sandbox"
	// ScopeHost is asked from outside, about the host's processes that run guest code.
	ScopeHost Scope = "host"
)

// Probe documents a probe. Every finding has the name of one.
type Probe struct {
	Name     string `json:"name"`
	Scope    Scope  `json:"scope"`
	Question string `json:"question"`
	Better   string `json:"better"` // what a better answer is, and why
	Worse    string `json:"worse"`  // what a worse one is
}

// Limits of what Decode accepts. The honest output of all probes is about 10 KiB.
const (
	MaxBytes    = 1 << 20
	maxFindings = 256
	maxName     = 64
	maxText     = 4096
	maxItems    = 512
	maxItem     = 512
)

// ErrMalformed is wrapped by the errors of Decode.
var ErrMalformed = errors.New("malformed findings")

// Decode reads the findings that a sandbox has written. The sandbox is not trusted: input that is
// too large, or is not a list of findings, is an error that wraps ErrMalformed; text is cut off and
// cleaned of control characters; of a name that comes twice the second is refused.
func Decode(r io.Reader) ([]Finding, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > MaxBytes {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrMalformed, MaxBytes)
	}
	var list []Finding
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(list) > maxFindings {
		return nil, fmt.Errorf("%w: %d findings", ErrMalformed, len(list))
	}
	seen := map[string]bool{}
	for i := range list {
		f := &list[i]
		if f.Name == "" || len(f.Name) > maxName || clean(f.Name, maxName) != f.Name {
			return nil, fmt.Errorf("%w: bad name in finding %d", ErrMalformed, i)
		}
		if seen[f.Name] {
			return nil, fmt.Errorf("%w: %s twice", ErrMalformed, f.Name)
		}
		seen[f.Name] = true
		switch f.Verdict {
		case Better, Worse, Unknown:
		default:
			return nil, fmt.Errorf("%w: verdict of %s", ErrMalformed, f.Name)
		}
		f.Value, f.Detail = clean(f.Value, maxText), clean(f.Detail, maxText)
		if len(f.Items) > maxItems {
			return nil, fmt.Errorf("%w: %d items in %s", ErrMalformed, len(f.Items), f.Name)
		}
		for j, item := range f.Items {
			f.Items[j] = clean(item, maxItem)
		}
	}
	return list, nil
}

// Clip keeps a list within what Decode accepts and says how many items were left out.
func Clip(items []string) ([]string, string) {
	if len(items) <= maxItems {
		return items, ""
	}
	return items[:maxItems], fmt.Sprintf("%d more not listed", len(items)-maxItems)
}

// clean replaces control characters and bad UTF-8 by "?" and cuts s off at limit bytes, so that a
// sandbox cannot write to the terminal on which the report appears.
func clean(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == utf8.RuneError || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return '?'
		}
		return r
	}, s)
	if len(s) <= limit {
		return s
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}
