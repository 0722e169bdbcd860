package inject

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// TestRecord has uses of credentials counted: those that were answered, that were refused, and that were sent and have
// had no answer. A copy begins anew.
func TestRecord(t *testing.T) {
	w := newWorld(t, apiRule, Rule{Host: "api.example.org", Header: "X-Key", Secret: "token", Fork: true}, Rule{Host: "none.example.org", Header: "X-Key", Secret: "lost"})
	w.host(t, "203.0.113.1:443", func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/missing":
			rw.WriteHeader(http.StatusNotFound)
		case "/broken":
			panic(http.ErrAbortHandler)
		}
	}, "api.example.org")
	w.host(t, "203.0.113.2:443", nil, "evil.example")
	child := w.Fork(nil)
	defer child.Close()
	const begin, end = " HTTP/1.1\r\nHost: api.example.org\r\n", "\r\n"
	for _, request := range []string{"GET /", "GET /", "GET /missing", "FETCH-" + secret + " /", "POST /broken", "TRACE /"} {
		raw(t, w.Injector, "203.0.113.1:443", "api.example.org", request+begin+end)
	}
	raw(t, w.Injector, "203.0.113.2:443", "api.example.org", "DELETE /"+begin+end)
	raw(t, w.Injector, "203.0.113.1:443", "none.example.org", "GET / HTTP/1.1\r\nHost: none.example.org\r\n\r\n")
	raw(t, child, "203.0.113.1:443", "api.example.org", "PUT /"+begin+end)

	lines := func(i *Injector) (list []string) {
		uses, omitted := i.CredentialLog()
		for _, u := range uses {
			if u.First.IsZero() || u.Last.Before(u.First) || omitted != 0 {
				t.Errorf("%+v, %d omitted", u, omitted)
			}
			list = append(list, fmt.Sprintf("%s %s %s %d %d %q", u.Secret, u.Host, u.Method, u.Status, u.Count, u.Refused))
		}
		return list
	}
	want := []string{
		`token api.example.org GET 200 2 ""`,
		`token api.example.org GET 404 1 ""`,
		`token api.example.org other 200 1 ""`,
		`token api.example.org POST 0 1 ""`,
		`token api.example.org TRACE 0 1 "the method is not allowed"`,
		`token api.example.org DELETE 0 1 "it cannot be reached, or is not who it should be"`,
		`lost none.example.org GET 0 1 "the secret \"lost\" cannot be had"`,
	}
	if got := lines(w.Injector); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got, want := lines(child), []string{`token api.example.org PUT 200 1 ""`}; !slices.Equal(got, want) {
		t.Errorf("the copy: %q", got)
	}
}

func TestRecordIsBounded(t *testing.T) {
	var i Injector
	now := time.Unix(1, 0)
	for n := range 3 * maxUses {
		i.record.add(Event{Host: "h", Secrets: []string{"one", "two"}, Method: "GET", Status: n}, now.Add(time.Duration(n)))
	}
	uses, omitted := i.CredentialLog()
	if len(uses) != maxUses || omitted != 5*maxUses || uses[maxUses-1].Status != 3*maxUses-1 {
		t.Errorf("%d entries, %d omitted, the last %+v", len(uses), omitted, uses[maxUses-1])
	}
	for range 1000 {
		i.record.add(Event{Host: "h", Secrets: []string{"one"}, Method: "GET", Status: 3*maxUses - 1}, now.Add(time.Hour))
	}
	if uses, omitted = i.CredentialLog(); len(uses) != maxUses || omitted != 5*maxUses || uses[maxUses-1].Count != 1001 {
		t.Errorf("%d entries, %d omitted, the last %+v", len(uses), omitted, uses[maxUses-1])
	}
	if first := slices.IndexFunc(uses, func(u sandbox.CredentialUse) bool { return u.Last.Before(u.First) }); first >= 0 {
		t.Errorf("%+v", uses[first])
	}
}
