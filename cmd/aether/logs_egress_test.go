package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// egressServer answers for a sandbox with one record after the other, then that it is gone.
func egressServer(t *testing.T, records ...sandbox.EgressLog) string {
	t.Helper()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(asked.Add(1)) - 1
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Path != "/v1/sandboxes/sbx/egress":
			t.Errorf("asked for %s", r.URL.Path)
		case n < len(records):
			_ = json.NewEncoder(w).Encode(records[n])
			return
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusGone)
		_, _ = w.Write([]byte(`{"status":410,"code":"gone","cause":"it was killed","remedy":"make another"}`))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestLogsEgress(t *testing.T) {
	at := time.Now().Add(-time.Minute)
	web := sandbox.RefusedFlow{Protocol: "tcp", Address: "203.0.113.9:443", Count: 3, First: at, Last: at}
	name := sandbox.RefusedFlow{Protocol: "dns", Name: "evil.example", Count: 1, First: at, Last: at}
	used := sandbox.CredentialUse{Secret: "github", Host: "api.github.com", Method: "GET", Status: 200, Count: 2, First: at, Last: at}
	denied := sandbox.CredentialUse{Secret: "github", Host: "api.github.com", Method: "other", Refused: "it is no request", Count: 1, First: at, Last: at}
	all := sandbox.EgressLog{Refused: []sandbox.RefusedFlow{web, name}, Omitted: 5, Credentials: []sandbox.CredentialUse{used, denied}}

	out, errs := runCommand(t, 0, "", "logs", "--egress", "sbx", "--server", egressServer(t, all))
	for _, want := range []string{"protocol", "tcp", "203.0.113.9:443", "evil.example", "secret", "api.github.com", "200", "refused: it is no request"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if !strings.Contains(errs, "5 more were refused") {
		t.Errorf("notes %q", errs)
	}
	out, _ = runCommand(t, 0, "", "logs", "--egress", "--json", "sbx", "--server", egressServer(t, all))
	var got sandbox.EgressLog
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.Refused) != 2 || len(got.Credentials) != 2 || got.Omitted != 5 {
		t.Errorf("%s: %v", out, err)
	}
	out, errs = runCommand(t, 0, "", "logs", "--egress", "sbx", "--server", egressServer(t, sandbox.EgressLog{}))
	if out != "" || !strings.Contains(errs, "nothing was refused") {
		t.Errorf("%q, %q", out, errs)
	}
	if _, errs = runCommand(t, exitUsage, "", "logs", "--egress", "prx", "--server", "http://127.0.0.1:1"); !strings.Contains(errs, "is a process") {
		t.Errorf("of a process: %q", errs)
	}
}

// TestLogsEgressFollows tells each entry when it comes, again when it changes, and ends with the sandbox.
func TestLogsEgressFollows(t *testing.T) {
	at := time.Now().Add(-time.Minute)
	flow := sandbox.RefusedFlow{Protocol: "tcp", Address: "203.0.113.9:443", Count: 1, First: at, Last: at}
	again := flow
	again.Count, again.Last = 2, at.Add(time.Second)
	use := sandbox.CredentialUse{Secret: "s", Host: "h", Method: "GET", Count: 1, First: at, Last: at}
	records := []sandbox.EgressLog{
		{Refused: []sandbox.RefusedFlow{flow}},
		{Refused: []sandbox.RefusedFlow{again}, Credentials: []sandbox.CredentialUse{use}},
		{Refused: []sandbox.RefusedFlow{again}, Credentials: []sandbox.CredentialUse{use}},
	}
	out, _ := runCommand(t, 0, "", "logs", "-f", "--egress", "sbx", "--server", egressServer(t, records...))
	lines := strings.Split(strings.TrimSpace(out), "\n")
	want := []string{"refused tcp 203.0.113.9:443", "secret s: GET h: no answer", "refused tcp 203.0.113.9:443 (2 times)"}
	if len(lines) != len(want) {
		t.Fatalf("%q", lines)
	}
	for i := range want {
		if !strings.HasSuffix(lines[i], " "+want[i]) {
			t.Errorf("line %d is %q, want %q", i, lines[i], want[i])
		}
	}
	out, _ = runCommand(t, 0, "", "logs", "-f", "--egress", "--json", "sbx", "--server", egressServer(t, records[0]))
	var e egressEntry
	if err := json.Unmarshal([]byte(out), &e); err != nil || e.Refused == nil || e.Refused.Count != 1 {
		t.Errorf("%q: %v", out, err)
	}
	if _, errs := runCommand(t, exitFailed, "", "logs", "-f", "--egress", "sbx", "--server", egressServer(t)); !strings.Contains(errs, "it was killed") {
		t.Errorf("of one that is gone: %q", errs)
	}
}
