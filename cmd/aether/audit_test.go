package main

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/internal/server/access"
	"github.com/aethervm/aether/internal/server/rest"
	"github.com/aethervm/aether/sandbox"
)

func TestAudit(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	rt, err := runtime.Open(t.Context(), runtime.Config{StateDir: state, Drivers: []sandbox.Driver{runtimetest.New("gvisor")}, Images: &runtimetest.Images{}, DefaultImage: "base"})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(rest.Handler(rest.Config{Guard: access.Guard{Runtime: rt, Owner: true}}))
	defer server.Close()
	t.Setenv("AETHER_SERVER", server.URL)
	out, _ := runCommand(t, 0, "", "new")
	first := line(out)
	out, _ = runCommand(t, 0, "", "new")
	second := line(out)
	runCommand(t, 0, "", "exec", first, "--", "echo", "hello there")
	runCommand(t, exitNotFound, "", "kill", "sbaaaaaaaaaa")

	out, _ = runCommand(t, 0, "", "audit")
	for _, want := range []string{first, second, "run", "hello there", "not_found", "create"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if out, _ := runCommand(t, 0, "", "audit", first); !strings.Contains(out, "hello there") || strings.Contains(out, second) {
		t.Errorf("of one sandbox:\n%s", out)
	}
	out, _ = runCommand(t, 0, "", "audit", "--json", "-n", "2")
	var list struct{ Entries []rest.AuditEntry }
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Entries) != 2 || list.Entries[0].Result != "not_found" || list.Entries[1].Op != "run" {
		t.Errorf("%s, %v", out, err)
	}
	runCommand(t, exitUsage, "", "audit", "-n", "0")

	// While a server runs, and after it.
	out, errs := runCommand(t, 0, "", "audit", "verify", "--state", state)
	if !strings.Contains(out, "entries are as they were written") || !strings.Contains(errs, "a server is using the log") {
		t.Errorf("%q, %q", out, errs)
	}
	if err := rt.Close(); err != nil {
		t.Fatal(err)
	}
	out, errs = runCommand(t, 0, "", "audit", "verify", "--state", state, "--json")
	var report runtime.AuditReport
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.Entries < 4 || report.InUse || errs != "" {
		t.Errorf("%s, %q, %v", out, errs, err)
	}
	log := filepath.Join(state, "audit.jsonl")
	whole, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	for name, forged := range map[string][]byte{
		"changed": bytes.Replace(whole, []byte("hello there"), []byte("nothing bad"), 1),
		"cut off": bytes.Join(lines[:len(lines)-2], nil),
	} {
		if err := os.WriteFile(log, forged, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, errs := runCommand(t, exitFailed, "", "audit", "verify", "--state", state); out != "" || !strings.Contains(errs, "line ") {
			t.Errorf("%s: %q, %q", name, out, errs)
		}
	}
	runCommand(t, exitNotFound, "", "audit", "verify", "--state", t.TempDir())
}
