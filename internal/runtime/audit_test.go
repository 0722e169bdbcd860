package runtime

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

// auditOf makes a log of a few entries and returns it, with the directory it is in.
func auditOf(t *testing.T) (dir string, log []byte) {
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	s.mustRun(t, box, "echo <secret> & more")
	_, err := s.Run(t.Context(), RunRequest{Sandbox: "sb", Shell: "true"})
	want(t, "run", err, CodeNotFound)
	w.shut(t)
	log, err = os.ReadFile(filepath.Join(w.cfg.StateDir, auditName))
	if err != nil {
		t.Fatal(err)
	}
	return w.cfg.StateDir, log
}

func TestAuditTellsWhatWasDone(t *testing.T) {
	dir, log := auditOf(t)
	report, err := VerifyAudit(dir)
	if err != nil || report.Entries < 6 || report.Torn != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	var ops []string
	for line := range bytes.Lines(log) {
		e, err := decodeAudit(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			t.Fatal(err)
		}
		ops = append(ops, e.Op+":"+e.Result)
		if e.Op == "run" && (e.Tenant == "" || e.Session == "" || e.What["command"] == "") {
			t.Errorf("%+v", e)
		}
	}
	if got := strings.Join(ops, " "); got != "open:ok open session:ok create:ok run:ok run:not_found close session:ok close:ok" {
		t.Error(got)
	}
}

func TestAuditTampering(t *testing.T) {
	dir, log := auditOf(t)
	lines := bytes.SplitAfter(log, []byte("\n"))
	lines = lines[:len(lines)-1]
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	edit := func(from, to string) []byte { return bytes.Replace(log, []byte(from), []byte(to), 1) }
	for name, forged := range map[string][]byte{
		"a text changed":        edit("secret", "public"),
		"a result changed":      edit(`"not_found"`, `"ok"`),
		"spaces added":          edit(`"op":"run"`, `"op": "run"`),
		"a field added":         edit(`"op":"run"`, `"extra":1,"op":"run"`),
		"a line taken out":      join(append(append([][]byte{}, lines[:2]...), lines[3:]...)...),
		"a line repeated":       join(append(append([][]byte{}, lines[:3]...), lines[2:]...)...),
		"two lines swapped":     join(append([][]byte{lines[1], lines[0]}, lines[2:]...)...),
		"the end cut off":       join(lines[:len(lines)-1]...),
		"the beginning cut off": join(lines[1:]...),
		"all of it":             {},
		"no JSON":               append([]byte("hello\n"), log...),
		"a long line":           append(bytes.Repeat([]byte("x"), maxAuditLine+10), log...),
	} {
		if err := os.WriteFile(filepath.Join(dir, auditName), forged, 0o600); err != nil {
			t.Fatal(err)
		}
		report, err := VerifyAudit(dir)
		if e := wantError(t, name, err, CodeConflict); !strings.Contains(e.Cause, "line ") {
			t.Errorf("%s: %v, %+v", name, e, report)
		}
	}
	// A log that is made anew, its digests in order, is not the one that the database knows.
	var again bytes.Buffer
	prev := genesis()
	for i, line := range lines {
		e, err := decodeAudit(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			t.Fatal(err)
		}
		e.Prev = prev
		if i == 2 {
			e.Op = "forged"
		}
		if e.Hash, err = e.digest(); err != nil {
			t.Fatal(err)
		}
		prev = e.Hash
		if err := writeJSONLine(&again, e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := verify(bytes.NewReader(again.Bytes()), auditHead{}); err != nil {
		t.Fatalf("the forgery is no good: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, auditName), again.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := VerifyAudit(dir)
	if e := wantError(t, "made anew", err, CodeConflict); !strings.Contains(e.Cause, "anew") {
		t.Error(e)
	}
	// Nor does a runtime go on from a log whose end is another one.
	for name, forged := range map[string][]byte{"the end cut off": join(lines[:len(lines)-1]...), "all of it": {}, "made anew": again.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, auditName), forged, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Open(t.Context(), Config{StateDir: dir, Images: &runtimetest.Images{}, Drivers: []sandbox.Driver{runtimetest.New("gvisor")}})
		if err == nil {
			_ = r.Close()
			t.Errorf("%s: the runtime opened", name)
		} else if !strings.Contains(err.Error(), "its end was cut off or changed") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, auditName), log, 0o600); err != nil { // for the clean-up
		t.Fatal(err)
	}
}

func TestTornAudit(t *testing.T) {
	w := open(t, nil)
	w.session(t, SessionSpec{})
	w.shut(t)
	name := filepath.Join(w.cfg.StateDir, auditName)
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append(whole, `{"seq":99,"ti`...), 0o600); err != nil {
		t.Fatal(err)
	}
	if report, err := VerifyAudit(w.cfg.StateDir); err != nil || report.Torn != 13 {
		t.Errorf("%+v, %v", report, err)
	}
	w.reopen(t)
	if notes := strings.Join(w.Recovered().Notes, "; "); !strings.Contains(notes, "13 bytes") {
		t.Errorf("notes: %s", notes)
	}
}

func FuzzAudit(f *testing.F) {
	f.Add([]byte(`{"seq":1,"time":"2026-01-01T00:00:00Z","op":"x","result":"ok","prev":"00","hash":"00"}`))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		report, err := verify(bytes.NewReader(data), auditHead{})
		if err == nil && report.Entries > 0 {
			return // it would take a digest
		}
		if report.Entries < 0 {
			t.Errorf("%+v", report)
		}
	})
}
