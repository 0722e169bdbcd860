package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/boot/boottest"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/vms"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"aether": main})
}

func TestScripts(t *testing.T) {
	results, err := filepath.Abs("../../internal/report/testdata/synthetic")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("AETHER_STATE", filepath.Join(env.WorkDir, "state"))
			env.Setenv("AETHER_RUN", filepath.Join(env.WorkDir, "run"))
			env.Setenv("RESULTS", results)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":       exits,
			"systems":     systems,
			"error-kind":  errorKind,
			"nothing-new": nothingNew,
			"bzimage":     bzImage,
		},
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
	})
}

// exits runs a program and checks its exit code: exits CODE PROGRAM [ARG...].
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// systems checks that standard output is JSON with the seven systems: systems array|object.
func systems(ts *testscript.TestScript, _ bool, args []string) {
	type entry struct {
		VM       string             `json:"vm"`
		System   string             `json:"system"`
		Axes     map[string]float64 `json:"axes"`
		Evidence []json.RawMessage  `json:"evidence"`
	}
	var list []entry
	switch args[0] {
	case "array":
		ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &list))
		for _, e := range list {
			if len(e.Axes) != len(vms.Axes()) || len(e.Evidence) < len(vms.Axes()) {
				ts.Fatalf("%s has %d axes and %d pieces of evidence", e.VM, len(e.Axes), len(e.Evidence))
			}
		}
	case "object":
		var doc struct{ Systems []entry }
		ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &doc))
		list = doc.Systems
	}
	seen := map[string]bool{}
	for _, e := range list {
		seen[e.VM+e.System] = true
	}
	for _, vm := range vms.All() {
		if !seen[vm.Name()] {
			ts.Fatalf("no %s in %d systems", vm, len(list))
		}
	}
	if len(list) != len(vms.All()) {
		ts.Fatalf("%d systems", len(list))
	}
}

// errorKind checks that standard error is one JSON object about an error of a kind, with a remedy.
func errorKind(ts *testscript.TestScript, _ bool, args []string) {
	var doc struct {
		Error struct{ Kind, Message, Remedy string }
	}
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile("stderr")))
	dec.DisallowUnknownFields()
	ts.Check(dec.Decode(&doc))
	if dec.More() {
		ts.Fatalf("more than one document on standard error")
	}
	if doc.Error.Kind != args[0] || doc.Error.Message == "" || doc.Error.Remedy == "" {
		ts.Fatalf("error %+v, want kind %s, a message and a remedy", doc.Error, args[0])
	}
}

// nothingNew checks that a directory holds only what is named: nothing-new DIR [NAME...].
func nothingNew(ts *testscript.TestScript, _ bool, args []string) {
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	want := map[string]bool{}
	for _, name := range args[1:] {
		want[name] = true
	}
	for _, e := range entries {
		if !want[e.Name()] {
			ts.Fatalf("%s was left in %s", e.Name(), args[0])
		}
	}
}

// bzImage writes a kernel that says that it is of a version: bzimage FILE VERSION.
func bzImage(ts *testscript.TestScript, _ bool, args []string) {
	image := boottest.BzImage(args[1], boottest.Zstd(boottest.Vmlinux()))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), image, 0o600))
}

func TestDiagnose(t *testing.T) {
	typed := &sandbox.Error{Op: "create", System: "docker", Err: sandbox.ErrUnavailable, Detail: "no engine", Remedy: "start it"}
	for _, c := range []struct {
		err       error
		code      int
		exec      int
		kind, say string
	}{
		{typed, 3, 125, "unavailable", "docker: create: system not available: no engine"},
		{fmt.Errorf("begin: %w", typed), 3, 125, "unavailable", "begin: docker: create: system not available: no engine"},
		{&sandbox.Error{Op: "check", Err: sandbox.ErrInvalid, Detail: "vcpus is 0"}, 2, 125, "usage", ""},
		{&sandbox.Error{Op: "exec", Err: sandbox.ErrCannotRun, Detail: "x: no such file or directory"}, 1, 127, "failed", ""},
		{&sandbox.Error{Op: "exec", Err: sandbox.ErrCannotRun, Detail: "x: permission denied"}, 1, 126, "failed", ""},
		{fmt.Errorf("open: %w", fs.ErrNotExist), 4, 125, "not-found", ""},
		{fmt.Errorf("open: %w", syscall.EACCES), 1, 125, "failed", ""},
		{fmt.Errorf("write: %w", syscall.ENOSPC), 1, 125, "failed", ""},
		{signalError{signal: syscall.SIGTERM}, 143, 143, "interrupted", ""},
		{signalError{signal: syscall.SIGINT}, 130, 130, "interrupted", ""},
		{fmt.Errorf("write |1: %w", syscall.EPIPE), 141, 141, "failed", ""},
		{fmt.Errorf("ask the engine: %w", &net.OpError{Op: "write", Net: "unix", Err: syscall.EPIPE}), 1, 125, "failed", "ask the engine: write unix: broken pipe"},
		{exitWith(7), 7, 7, "exit", ""},
		{usageError("so", "no"), 2, 125, "usage", "no"},
		{outcome([]copyResult{{Code: 3}, {}}), 5, 5, "partly", "1 of 2 copies failed: : the program ended: exit 3"},
		{outcome([]copyResult{{Signal: 9}}), 1, 1, "failed", ""},
		{&failure{code: exitTimeout, kind: "failed", message: "the lab was ended after 1s"}, 124, 124, "failed", ""},
	} {
		f := diagnose(c.err)
		if f.code != c.code || f.kind != c.kind {
			t.Errorf("%v: code %d, kind %s; want %d, %s", c.err, f.code, f.kind, c.code, c.kind)
		}
		if g := f.forExec(); g.code != c.exec {
			t.Errorf("%v: code %d for exec, want %d", c.err, g.code, c.exec)
		}
		if c.say != "" && f.Error() != c.say {
			t.Errorf("it says %q, want %q", f.Error(), c.say)
		}
	}
	if f := diagnose(typed); f.remedy != "start it" {
		t.Errorf("remedy %q", f.remedy)
	}
}

func TestBrokenPipeIsQuiet(t *testing.T) {
	var stderr bytes.Buffer
	code := run([]string{"rank"}, nil, brokenPipe{}, &stderr)
	if code != 141 || stderr.Len() != 0 {
		t.Errorf("code %d, standard error %q", code, stderr.String())
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) {
	return 0, &fs.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}
}

func TestOneLineCannotSteerATerminal(t *testing.T) {
	if got := oneLine("a\x1b[2Jb\nc\u009bd\te"); got != "a[2Jb cd e" {
		t.Errorf("oneLine = %q", got)
	}
}

func TestEveryCommandTeaches(t *testing.T) {
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		if cmd.Name() == "completion" || cmd.Name() == "help" || cmd.Hidden {
			return
		}
		if cmd.Short == "" || !strings.Contains(cmd.Long, "aether") {
			t.Errorf("%s has no help with an example", cmd.CommandPath())
		}
		if cmd.Flags().Lookup("json") != nil && !strings.Contains(cmd.Use, "json") && !strings.Contains(cmd.Use, "[flags]") {
			t.Errorf("%s does not name --json in its usage line", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			check(sub)
		}
	}
	check(newRoot(&app{}))
}

func TestWriteWholeLeavesNothingHalf(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	if err := os.WriteFile(name, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	if err := writeWhole(name, func(w io.Writer) error {
		_, _ = w.Write([]byte("half"))
		return boom
	}); !errors.Is(err, boom) {
		t.Errorf("writeWhole = %v", err)
	}
	content, err := os.ReadFile(name)
	if err != nil || string(content) != "before" {
		t.Errorf("the file has %q, %v", content, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left: %v", entries)
	}
}
