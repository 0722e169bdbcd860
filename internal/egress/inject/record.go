package inject

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// maxUses bounds the entries of a record: what is asked for is the sandbox's choice, what is answered the hosts'.
const maxUses = 256

var _ sandbox.CredentialLogger = (*Injector)(nil)

// record counts uses of credentials. Its methods may be called concurrently.
type record struct {
	mu      sync.Mutex
	entries map[use]*sandbox.CredentialUse
	omitted int64
}

type use struct {
	secret, host, method, refused string
	status                        int
}

// add counts a request once for each of its secrets. The entry that is the longest out of use makes room for a new one.
func (r *record) add(e Event, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.entries == nil {
		r.entries = map[use]*sandbox.CredentialUse{}
	}
	for _, secret := range e.Secrets {
		what := use{secret, e.Host, e.Method, e.Refused, e.Status}
		if known := r.entries[what]; known != nil {
			known.Count, known.Last = known.Count+1, now
			continue
		}
		if len(r.entries) >= maxUses {
			var oldest use
			for what, entry := range r.entries {
				if o := r.entries[oldest]; o == nil || entry.Last.Before(o.Last) {
					oldest = what
				}
			}
			r.omitted += r.entries[oldest].Count
			delete(r.entries, oldest)
		}
		r.entries[what] = &sandbox.CredentialUse{Secret: secret, Host: e.Host, Method: e.Method, Status: e.Status, Refused: e.Refused,
			Count: 1, First: now, Last: now}
	}
}

// CredentialLog is sandbox.CredentialLogger's.
func (i *Injector) CredentialLog() (uses []sandbox.CredentialUse, omitted int64) {
	r := &i.record
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries {
		uses = append(uses, *e)
	}
	slices.SortFunc(uses, func(a, b sandbox.CredentialUse) int { return a.Last.Compare(b.Last) })
	return uses, r.omitted
}

// methodOf is a request's method if it is a common one: else it may be any text.
func methodOf(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
		http.MethodTrace, http.MethodConnect:
		return r.Method
	}
	return "other"
}
