package main

import (
	"bytes"
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/driver/all"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/vms"
)

// available skips or fails the test if this host has not the system.
func available(t *testing.T, vm vms.VM, need string) {
	t.Helper()
	testenv.Root(t)
	testenv.Image(t)
	for _, d := range all.Drivers(all.Options{}) {
		defer func() { _ = d.Close() }()
		if d.System() != vm.Name() {
			continue
		}
		if info := d.Probe(t.Context()); !info.Available {
			testenv.Require(t, need, info.Reason)
		}
	}
}

// passCase is a program, and what becomes of its streams and its end.
type passCase struct {
	name  string
	flags []string
	argv  []string
	stdin string
	code  int
	out   string
	err   string
}

// passCases hold for every command that runs one program.
var passCases = []passCase{
	{"streams and exit code", []string{"-e", "A=b"}, []string{"sh", "-c", `cat; echo "$A"; echo e >&2; exit 7`}, "hello\n", 7, "hello\nb\n", "e\n"},
	{"directory", []string{"-C", "/usr"}, []string{"pwd"}, "", 0, "/usr\n", ""},
	{"signal", nil, []string{"sh", "-c", "kill -TERM $$"}, "", 128 + 15, "", ""},
	{"timeout", []string{"--timeout", "500ms"}, []string{"sleep", "60"}, "", 124, "", ""},
	{"no program", nil, []string{"no-such-program"}, "", 127, "", "no-such-program"},
	{"not a program", nil, []string{"/etc/passwd"}, "", 126, "", "aether: "},
}

// testPassesThrough runs programs by a command that runs one in a sandbox of a system.
func testPassesThrough(t *testing.T, command string, vm vms.VM, more ...passCase) {
	t.Helper()
	for _, c := range append(passCases[:len(passCases):len(passCases)], more...) {
		t.Run(c.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			args := append([]string{command, "--vm", vm.Name()}, c.flags...)
			args = append(append(args, "--"), c.argv...)
			code := run(args, strings.NewReader(c.stdin), &out, &errs)
			if code != c.code || out.String() != c.out || !strings.Contains(errs.String(), c.err) {
				t.Errorf("exit code %d, output %.200q, errors %q; want %d, %.200q, %q", code, out.String(), errs.String(), c.code, c.out, c.err)
			}
		})
	}
}

// testInterrupted interrupts such a command when its program runs.
func testInterrupted(t *testing.T, command string, vm vms.VM) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	started := make(chan struct{})
	out := writerFunc(func(p []byte) (int, error) { close(started); return len(p), nil })
	var errs bytes.Buffer
	a := &app{in: strings.NewReader(""), out: out, err: &errs}
	done := make(chan error, 1)
	go func() {
		root := newRoot(a)
		root.SetArgs([]string{command, "--vm", vm.Name(), "--", "sh", "-c", "echo up; sleep 600"})
		done <- root.ExecuteContext(ctx)
	}()
	select {
	case <-started:
	case err := <-done:
		t.Fatalf("it ended before the program ran: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the program does not start")
	}
	cancel(signalError{signal: syscall.SIGINT})
	select {
	case err := <-done:
		if f := diagnose(err).forExec(); f.code != 130 {
			t.Errorf("exit code %d of %v, want 130", f.code, err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
