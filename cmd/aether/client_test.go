package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
	"github.com/aethervm/aether/vms"
)

// command runs aether and wants its exit code.
func runCommand(t *testing.T, code int, in string, args ...string) (out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	if got := run(args, strings.NewReader(in), &o, &e); got != code {
		t.Fatalf("aether %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, &o, &e)
	}
	return o.String(), e.String()
}

func line(s string) string { return strings.TrimSuffix(s, "\n") }

// TestServerCommands drives a server's sandboxes, of a real system, by the command line.
func TestServerCommands(t *testing.T) {
	available(t, vms.GVisor, "GVISOR")
	dir := t.TempDir()
	short, err := os.MkdirTemp("/tmp", "ae-") //nolint:usetesting // names of sockets are below it, and end at 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(short) })
	t.Setenv("AETHER_RUN", short)
	s := startServe(t, "127.0.0.1:0", "--vm", "gvisor", "--state", filepath.Join(dir, "state"))
	defer s.end()
	out, _ := runCommand(t, 0, "", "new", "--mem", "256", "--label", "a=b", "--idle", "-1s")
	sb := line(out)

	for _, c := range passCases {
		t.Run(c.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			args := append(append(append([]string{"exec"}, c.flags...), sb, "--"), c.argv...)
			if code := run(args, strings.NewReader(c.stdin), &out, &errs); code != c.code || out.String() != c.out || !strings.Contains(errs.String(), c.err) {
				t.Errorf("exit code %d, output %.200q, errors %q; want %d, %.200q, %q", code, out.String(), errs.String(), c.code, c.out, c.err)
			}
		})
	}
	t.Run("long", func(t *testing.T) {
		in := strings.Repeat("\x00\xff0123", 300_000)
		if out, _ := runCommand(t, 0, in, "exec", sb, "--", "cat"); out != in {
			t.Errorf("%d bytes of %d came back", len(out), len(in))
		}
	})
	if out, _ := runCommand(t, 0, "", "__complete", "kill", ""); !strings.HasPrefix(out, sb+"\tgvisor, running\n") {
		t.Errorf("completed: %q", out)
	}
	if out, _ := runCommand(t, 0, "", "__complete", "kill", sb, ""); strings.Contains(out, sb) {
		t.Errorf("completed again: %q", out)
	}
	t.Run("interrupted", func(t *testing.T) { testExecInInterrupted(t, sb) })
	t.Run("files", func(t *testing.T) { testCopies(t, dir, sb) })
	t.Run("trees", func(t *testing.T) { testTrees(t, dir, sb) })
	t.Run("terminals", func(t *testing.T) { testTerminals(t, sb) })
	t.Run("background", func(t *testing.T) { testBackground(t, sb) })
	t.Run("forks", func(t *testing.T) { testForks(t, sb) })
	t.Run("diffs", func(t *testing.T) { testDiffs(t, sb) })
	t.Run("snapshots", func(t *testing.T) {
		runCommand(t, 0, "", "exec", sb, "--", "sh", "-c", "echo before > /s")
		out, _ := runCommand(t, 0, "", "snapshot", "save", sb, "--name", "n")
		sn := line(out)
		runCommand(t, 0, "", "exec", sb, "--", "sh", "-c", "echo after > /s")
		restored, _ := runCommand(t, 0, "", "restore", sn)
		if out, _ := runCommand(t, 0, "", "exec", line(restored), "--", "cat", "/s"); out != "before\n" {
			t.Errorf("restored: %q", out)
		}
		out, _ = runCommand(t, 0, "", "snapshot", sb, "--name", "later")
		later := line(out)
		if out, _ := runCommand(t, 0, "", "snapshot", "ls", "--of", line(restored)); strings.Contains(out, sn) {
			t.Errorf("of another one: %s", out)
		}
		runCommand(t, exitNotFound, "", "snapshot", "rollback", sb, "nothing")
		runCommand(t, 0, "", "snapshot", "rollback", sb, "n")
		if out, _ := runCommand(t, 0, "", "exec", sb, "--", "cat", "/s"); out != "before\n" {
			t.Errorf("rolled back by name: %q", out)
		}
		runCommand(t, 0, "", "snapshot", "rollback", sb, later)
		if out, _ := runCommand(t, 0, "", "exec", sb, "--", "cat", "/s"); out != "after\n" {
			t.Errorf("rolled forward: %q", out)
		}
		runCommand(t, 0, "", "snapshot", "rm", later)
		runCommand(t, 0, "", "snapshot", "rollback", sb, sn)
		if out, _ := runCommand(t, 0, "", "exec", sb, "--", "cat", "/s"); out != "before\n" {
			t.Errorf("rolled back: %q", out)
		}
		if out, _ := runCommand(t, 0, "", "snapshot", "ls"); !strings.Contains(out, sn) {
			t.Errorf("listed: %s", out)
		}
		runCommand(t, 0, "", "snapshot", "rm", sn)
	})
	t.Run("errors", func(t *testing.T) { testServerErrors(t, sb) })
	t.Run("tenants", func(t *testing.T) { testTenantCommands(t, s, sb) })

	all, _ := runCommand(t, 0, "", "ls", "-q")
	runCommand(t, 0, "", append([]string{"kill"}, strings.Fields(all)...)...)
	runCommand(t, exitOwnFailure, "", "exec", sb, "--", "true")
	out, _ = runCommand(t, 0, "", "ls", "--json")
	var list struct{ Sandboxes []rest.Sandbox }
	if err := json.Unmarshal([]byte(out), &list); err != nil || list.Sandboxes == nil || len(list.Sandboxes) != 0 {
		t.Errorf("all were killed: %s (%v)", out, err)
	}
}

// testServerErrors looks at what the commands say in place of the words of the API.
func testServerErrors(t *testing.T, sb string) {
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{exitOwnFailure, "`aether ls` lists the sandboxes", []string{"exec", "foo", "--", "true"}},
		{exitNotFound, "`aether ls` lists the sandboxes", []string{"logs", "sbaaaaaaaaaa"}},
		{exitNotFound, "give its ID: `aether snapshot ls` lists them", []string{"restore", "clean"}},
		{exitNotFound, "aether: remove snapshot: there is no snapshot \"one\"\naether: remove snapshot: there is no snapshot \"two\"\n", []string{"snapshot", "rm", "one", "two"}},
		{exitNotFound, "\"sbaaaaaaaaaa\"\naether: find: there is no \"sbbbbbbbbbbb\"", []string{"kill", "sbaaaaaaaaaa", "sbbbbbbbbbbb"}},
		{exitUsage, "`aether cp -r` copies directories", []string{"cp", sb + ":/etc", t.TempDir()}},
		{exitUsage, "--signal is for processes", []string{"kill", "--signal", "TERM", sb}},
		{exitFailed, "aether: copy 0: exit 3\n  oops\naether: copy 1: exit 3\n  oops\n", []string{"branch", sb, "-n", "2", "--", "sh", "-c", "echo oops; exit 3"}},
	} {
		if _, errs := runCommand(t, c.code, "", c.args...); !strings.Contains(errs, c.says) {
			t.Errorf("aether %s: %s", strings.Join(c.args, " "), errs)
		}
	}
}

// TestRemediesAreKnown looks for the words that commands have others for.
func TestRemediesAreKnown(t *testing.T) {
	var code strings.Builder
	for _, pattern := range []string{"../../internal/runtime/*.go", "../../internal/server/rest/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			code.Write(text)
		}
	}
	for remedy := range remedies {
		if !strings.Contains(code.String(), strconv.Quote(remedy)) {
			t.Errorf("nobody says %q any more", remedy)
		}
	}
}

// testExecInInterrupted ends a program with its command.
func testExecInInterrupted(t *testing.T, sb string) {
	ctx, cancel := context.WithCancelCause(t.Context())
	started := make(chan struct{})
	out := writerFunc(func(p []byte) (int, error) { close(started); return len(p), nil })
	done := make(chan error, 1)
	go func() {
		root := newRoot(&app{in: strings.NewReader(""), out: out, err: &bytes.Buffer{}})
		root.SetArgs([]string{"exec", sb, "--", "sh", "-c", "echo up; exec sleep 4711"})
		done <- root.ExecuteContext(ctx)
	}()
	<-started
	cancel(signalError{signal: syscall.SIGINT})
	if f := diagnose(<-done).forExec(); f.code != 130 {
		t.Errorf("exit code %d", f.code)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out, _ := runCommand(t, 0, "", "exec", sb, "--", "sh", "-c", `for p in /proc/[0-9]*; do tr '\0' ' ' < $p/cmdline; done 2>/dev/null; true`)
		if !strings.Contains(out, "sleep 4711 ") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the program goes on: %s", out)
		}
	}
}

func testCopies(t *testing.T, dir, sb string) {
	script, data := filepath.Join(dir, "run.sh"), filepath.Join(dir, "data")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho ran\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(data, bytes.Repeat([]byte("0123456789"), 200_000), 0o640); err != nil {
		t.Fatal(err)
	}
	runCommand(t, 0, "", "cp", script, data, sb+":/work/")
	if out, _ := runCommand(t, 0, "", "exec", sb, "--", "/work/run.sh"); out != "ran\n" {
		t.Errorf("the copy wrote %q", out)
	}
	runCommand(t, 0, "", "cp", sb+":/work/data", filepath.Join(dir, "back"))
	back, err := os.ReadFile(filepath.Join(dir, "back"))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "back")); err != nil || len(back) != 2_000_000 || info.Mode().Perm() != 0o640 {
		t.Errorf("%d bytes came back with %v, %v", len(back), info.Mode(), err)
	}
	runCommand(t, 0, "in", "cp", "-", sb+":/work/in")
	if out, _ := runCommand(t, 0, "", "cp", sb+":/work/in", "-"); out != "in" {
		t.Errorf("by standard input and output: %q", out)
	}
	runCommand(t, 0, "", "cp", sb+":/work/in", sb+":/tmp")
	if out, _ := runCommand(t, 0, "", "exec", sb, "--", "cat", "/tmp/in"); out != "in" {
		t.Errorf("within the sandbox: %q", out)
	}
	runCommand(t, exitNotFound, "", "cp", sb+":/work/nothing", filepath.Join(dir, "nothing"))
	if _, err := os.Stat(filepath.Join(dir, "nothing")); err == nil {
		t.Error("a copy that failed left a file")
	}
	runCommand(t, exitUsage, "", "cp", data, filepath.Join(dir, "x"))
	runCommand(t, exitUsage, "", "cp", dir, sb+":/tmp/")
}

func testBackground(t *testing.T, sb string) {
	out, _ := runCommand(t, 0, "", "exec", "-d", sb, "--", "sh", "-c", "echo up; cat; exit 3")
	pr := line(out)
	if out, _ := runCommand(t, 3, "fed\n", "attach", pr); out != "up\nfed\n" {
		t.Errorf("attached: %q", out)
	}
	if out, _ := runCommand(t, 0, "", "logs", sb); out != "up\nfed\n" {
		t.Errorf("logs: %q", out)
	}
	if out, _ := runCommand(t, 0, "", "logs", "-f", pr); out != "up\nfed\n" {
		t.Errorf("logs -f: %q", out)
	}
	if out, _ := runCommand(t, 0, "", "ls", sb); !strings.Contains(out, pr) || !strings.Contains(out, "exit 3") {
		t.Errorf("ls: %s", out)
	}
	out, _ = runCommand(t, 0, "", "exec", "-d", "--json", sb, "--", "sleep", "1000")
	var res runtime.RunResult
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatal(err)
	}
	runCommand(t, 0, "", "kill", res.Process)
	if out, _ := runCommand(t, 0, "", "ls", sb); !strings.Contains(out, "SIGKILL") {
		t.Errorf("killed: %s", out)
	}
}

func testForks(t *testing.T, sb string) {
	out, _ := runCommand(t, exitPartly, "", "fork", "-n", "2", sb, "--", "sh", "-c", "echo number $AETHER_FORK; exit $AETHER_FORK")
	for _, want := range []string{"exit 0\n  number 0\n", "exit 1\n  number 1\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("fork: %s", out)
		}
	}
	before, _ := runCommand(t, 0, "", "ls", "-q")
	out, _ = runCommand(t, 0, "", "branch", "-n", "3", sb, "--", "sh", "-c", "echo $AETHER_FORK > /n; test $AETHER_FORK -ge 1")
	if got, _ := runCommand(t, 0, "", "exec", line(out), "--", "cat", "/n"); got != "1\n" {
		t.Errorf("kept: copy %q", got)
	}
	runCommand(t, exitFailed, "", "branch", "-n", "2", sb, "--", "false")
	after, _ := runCommand(t, 0, "", "ls", "-q")
	if after != before+out {
		t.Errorf("of two branches %q is left", strings.TrimPrefix(after, before))
	}
	out, _ = runCommand(t, 0, "", "branch", sb, "-n", "2")
	if got := strings.Fields(out); len(got) != 2 {
		t.Errorf("branches without a command: %q", out)
	}
	tree, _ := runCommand(t, 0, "", "ps")
	if !strings.Contains(tree, "─ "+strings.Fields(out)[1]) {
		t.Errorf("ps: %s", tree)
	}
	testBranchInterrupted(t, sb)
	runCommand(t, exitUsage, "", "fork", sb, "true")
	runCommand(t, exitUsage, "", "fork", sb, "--keep-going")
	runCommand(t, exitUsage, "", "fork", sb, "--copies-per-cell", "2")
	runCommand(t, exitUsage, "", "fork", "py", "--local", "--copies-per-cell", "65", "--", "true")
	runCommand(t, exitUsage, "", "mcp", "--copies-per-cell", "-1")
}

// testBranchInterrupted finds that a branch that is cut short leaves no copies.
func testBranchInterrupted(t *testing.T, sb string) {
	t.Helper()
	before, _ := runCommand(t, 0, "", "ls", "-q")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done := make(chan error, 1)
	go func() {
		root := newRoot(&app{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &bytes.Buffer{}})
		root.SetArgs([]string{"branch", sb, "-n", "2", "--", "sleep", "1000"})
		done <- root.ExecuteContext(ctx)
	}()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if now, _ := runCommand(t, 0, "", "ls", "-q"); len(strings.Fields(now)) == len(strings.Fields(before))+2 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("there are no copies")
		}
	}
	cancel(signalError{signal: syscall.SIGINT})
	if f := diagnose(<-done); f.code != 130 {
		t.Errorf("exit code %d", f.code)
	}
	if after, _ := runCommand(t, 0, "", "ls", "-q"); after != before {
		t.Errorf("copies are left: %q, before %q", after, before)
	}
}

func testTenantCommands(t *testing.T, s server, sb string) {
	out, _ := runCommand(t, 0, "", "tenant", "add", "team", "--budget", "sandboxes=1,window=1h")
	token := line(out)
	out, _ = runCommand(t, 0, "", "tenant", "ls", "--json")
	if !strings.Contains(out, `"team"`) || strings.Contains(out, token) {
		t.Errorf("tenants: %s", out)
	}
	t.Setenv("AETHER_SERVER", s.url)
	t.Setenv("AETHER_TOKEN", token)
	own, _ := runCommand(t, 0, "", "new")
	runCommand(t, exitFailed, "", "new") // over its budget
	runCommand(t, exitNotFound, "", "kill", sb)
	t.Setenv("AETHER_TOKEN", "")
	if _, errs := runCommand(t, exitFailed, "", "ls"); !strings.Contains(errs, "hint: set AETHER_TOKEN") {
		t.Errorf("without a token: %s", errs)
	}
	t.Setenv("AETHER_SERVER", "")
	if out, _ := runCommand(t, 0, "", "ls", "-q", "--tenant", "team"); out != own {
		t.Errorf("of the team: %q, want %q", out, own)
	}
	runCommand(t, 0, "", "tenant", "budget", "team", "sandboxes=2")
	renewed, _ := runCommand(t, 0, "", "tenant", "token", "team")
	if renewed == out || !strings.HasPrefix(renewed, "aether_") {
		t.Error("the token is the old one")
	}
	runCommand(t, exitNotFound, "", "tenant", "rm", "nobody")
	runCommand(t, 0, "", "tenant", "rm", "team")
	runCommand(t, exitUsage, "", "tenant", "add", "x", "--budget", "apples=1")
}

// TestTenantsWithoutServer are kept for the server that is started next. Without a budget a tenant has that of the state directory's
// disk or, where a server runs, what that gives.
func TestTenantsWithoutServer(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("AETHER_STATE", filepath.Join(dir, "state"))
	t.Setenv("AETHER_RUN", filepath.Join(dir, "run"))
	out, _ := runCommand(t, 0, "", "tenant", "add", "team")
	s := startServe(t, "127.0.0.1:0", "--budget", "sandboxes=7,memory_mib=64")
	if code := s.get(t, "POST", "/mcp", line(out)); code != 200 {
		t.Errorf("its token is answered with %d", code)
	}
	runCommand(t, 0, "", "tenant", "add", "later")
	out, _ = runCommand(t, 0, "", "tenant", "ls")
	if kept := fmt.Sprintf("templates=100,kept_bytes=%d ", diskSize(dir)/2); strings.Count(out, kept) != 1 || strings.Count(out, "  sandboxes=7,memory_mib=64 ") != 2 {
		t.Errorf("want one with %q, and two with the server's:\n%s", kept, out)
	}
	s.end()
}
