package main

import (
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

// TestTemplateCommands drives the templates of a server, whose system is one in memory.
func TestTemplateCommands(t *testing.T) {
	d := runtimetest.New("aethervm")
	k := runtimetest.NewKeeper(d)
	rt, err := runtime.Open(t.Context(), runtime.Config{StateDir: filepath.Join(t.TempDir(), "state"), Drivers: []sandbox.Driver{k}, Images: &runtimetest.Images{}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(rest.Handler(rest.Config{Guard: access.Guard{Runtime: rt, Owner: true}}))
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	t.Setenv("AETHER_SERVER", server.URL)
	t.Setenv("AETHER_STATE", t.TempDir())

	out, _ := runCommand(t, 0, "", "template", "create", "py", "--memory", "64", "--warm", "write /f warm; echo ready", "--json")
	var made struct {
		runtime.TemplateInfo
		Stages []stageTook
	}
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.Name != "py" || made.MemoryMiB != 64 || len(made.Stages) != 6 || made.Stages[1].Command == "" {
		t.Errorf("%s, %v", out, err)
	}
	if out, errs := runCommand(t, exitUsage, "", "template", "create", "bad", "--warm", "exit 3"); out != "" || !strings.Contains(errs, "hint:") {
		t.Errorf("%q, %q", out, errs)
	}
	if out, _ := runCommand(t, 0, "", "template", "ls"); !strings.Contains(out, "py ") || strings.Count(out, "\n") != 2 {
		t.Errorf("%s", out)
	}
	if out, _ := runCommand(t, 0, "", "template", "ls", "--local", "--json"); line(out) != "[]" {
		t.Errorf("this host's: %s", out)
	}
	runCommand(t, exitUsage, "", "template", "ls", "--local", "--session", "x")
	runCommand(t, exitUsage, "", "fork", "py", "--copies-per-cell", "2", "--", "true")
	if out, _ := runCommand(t, 0, "", "template", "run", "py", "--", "cat", "/f"); out != "warm" {
		t.Errorf("%q", out)
	}
	runCommand(t, 7, "", "template", "run", "py", "--", "exit", "7")
	if out, _ := runCommand(t, 0, "in", "template", "run", "py", "--", "cat"); out != "in" {
		t.Errorf("its input: %q", out)
	}
	out, _ = runCommand(t, 0, "", "fork", "py", "-n", "3", "--json", "--", "env", "AETHER_FORK")
	var forked struct{ Copies []copyResult }
	if err := json.Unmarshal([]byte(out), &forked); err != nil || len(forked.Copies) != 3 || forked.Copies[2].Stdout != "2\n" {
		t.Errorf("%s, %v", out, err)
	}
	if n, _ := d.Left(); n != 0 {
		t.Errorf("%d sandboxes are left", n)
	}
	runCommand(t, exitNotFound, "", "fork", "none", "-n", "3", "--", "true")
	runCommand(t, exitUsage, "", "fork", "py", "-n", "0", "--", "true")
	out, _ = runCommand(t, 0, "", "new", "--template", "py")
	sb := line(out)
	if out, _ := runCommand(t, 0, "", "exec", sb, "--", "cat", "/f"); out != "warm" {
		t.Errorf("%q", out)
	}
	runCommand(t, exitUsage, "", "new", "--template", "py", "--image", "other")
	runCommand(t, exitNotFound, "", "new", "--template", "none")
	if out, _ := runCommand(t, 0, "", "template", "share", "py", "--json"); !strings.Contains(out, `"shared": true`) {
		t.Errorf("%s", out)
	}
	runCommand(t, 0, "", "template", "share", "py", "--off")
	if out, _ := runCommand(t, exitPartly, "", "template", "rm", "py", "none"); out != "py\n" || len(k.Kept()) != 0 {
		t.Errorf("%s, %v", out, k.Kept())
	}
	// Copies are made all or none.
	runCommand(t, 0, "", "template", "create", "py")
	k.OnFork = func(n int) error {
		if n == 3 {
			return &sandbox.Error{Op: "fork template", System: "aethervm", Err: sandbox.ErrNoSpace, Detail: "no more", Remedy: "later"}
		}
		return nil
	}
	if _, errs := runCommand(t, exitFailed, "", "fork", "py", "-n", "5", "--", "true"); !strings.Contains(errs, "no more") {
		t.Errorf("%s", errs)
	}
	if n, _ := d.Left(); n != 1 {
		t.Errorf("%d sandboxes are left", n)
	}
	t.Run("diff", func(t *testing.T) { testDiffCheckpoint(t, sb) })
	if entries, err := os.ReadDir(os.Getenv("AETHER_STATE")); err != nil || len(entries) > 1 {
		t.Errorf("on this host: %v, %v", entries, err)
	}
}

// testDiffCheckpoint compares a sandbox with its snapshots.
func testDiffCheckpoint(t *testing.T, sb string) {
	out, _ := runCommand(t, 0, "", "snapshot", sb, "--name", "clean")
	sn := line(out)
	if out, _ := runCommand(t, 0, "", "diff", sn, sb); !strings.Contains(out, "0 added, 0 removed, 0 changed") {
		t.Errorf("%s", out)
	}
	runCommand(t, 0, "", "exec", sb, "--", "write", "/g", "new")
	for _, args := range [][]string{{"clean", sb}, {sn, sb}} {
		if out, _ := runCommand(t, exitFailed, "", "diff", args[0], args[1]); !strings.Contains(out, "1 added, 0 removed, 0 changed") {
			t.Errorf("%v: %s", args, out)
		}
	}
	if out, _ := runCommand(t, exitFailed, "", "diff", sb, "clean"); !strings.Contains(out, "0 added, 1 removed, 0 changed") {
		t.Errorf("%s", out)
	}
	runCommand(t, exitNotFound, "", "diff", "dirty", sb)
	runCommand(t, exitTrouble, "", "diff", "clean", sb, "/g")
	runCommand(t, exitTrouble, "", "diff", sn, sn)
}
