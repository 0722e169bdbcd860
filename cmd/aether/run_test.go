package main

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/vms"
)

func TestRunPassesTheProgramThrough(t *testing.T) {
	available(t, vms.GVisor, "GVISOR")
	testPassesThrough(t, "run", vms.GVisor,
		passCase{"long output", nil, []string{"head", "-c", "100000", "/dev/zero"}, "", 0, strings.Repeat("\x00", 100000), ""},
		passCase{"why", []string{"-v"}, []string{"true"}, "", 0, "", "gvisor, asked for"})
}

func TestRunInterrupted(t *testing.T) {
	available(t, vms.GVisor, "GVISOR")
	testInterrupted(t, "run", vms.GVisor)
}

// TestRemedyOfFullDisk is not that of what could not be written: a database, for one, is not to be moved away for it.
func TestRemedyOfFullDisk(t *testing.T) {
	err := &runtime.Error{Code: runtime.CodeInternal, Op: "open", Cause: "the database cannot be opened", Remedy: "move it away", Err: fmt.Errorf("write: %w", syscall.ENOSPC)}
	if f := diagnose(fromRuntime(err)); f.code != exitFailed || !strings.HasPrefix(f.remedy, "free disk space") {
		t.Errorf("%d, %q", f.code, f.remedy)
	}
}

// TestTellRecovered looks at what whoever starts a server hears of the one before, which was killed.
func TestTellRecovered(t *testing.T) {
	var errs bytes.Buffer
	found := runtime.Recovery{Lost: []string{"sn1"}, Swept: map[string]int{"docker": 12}}
	for i := range 12 {
		found.Orphans = append(found.Orphans, runtime.Orphan{Sandbox: fmt.Sprintf("sb%d", i)})
	}
	(&app{err: &errs}).tellRecovered(found)
	for _, says := range []string{
		"aether: sandbox sb9 is gone with the process that had it\naether: and 2 more sandboxes\n",
		"aether: sn1 is lost", "removed what a dead process left: 12 sandboxes of docker\n",
	} {
		if !strings.Contains(errs.String(), says) {
			t.Errorf("%q is not in:\n%s", says, &errs)
		}
	}
}
