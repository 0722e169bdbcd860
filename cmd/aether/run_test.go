package main

import (
	"bytes"
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aethervm/aether/vms"
)

func TestRunPassesTheProgramThrough(t *testing.T) {
	available(t, vms.GVisor, "GVISOR")
	for _, c := range []struct {
		name  string
		flags []string
		argv  []string
		stdin string
		code  int
		out   string
		err   string
	}{
		{"streams and exit code", []string{"-e", "A=b"}, []string{"sh", "-c", `cat; echo "$A"; echo e >&2; exit 7`}, "hello\n", 7, "hello\nb\n", "e\n"},
		{"directory", []string{"-C", "/usr"}, []string{"pwd"}, "", 0, "/usr\n", ""},
		{"long output", nil, []string{"head", "-c", "100000", "/dev/zero"}, "", 0, strings.Repeat("\x00", 100000), ""},
		{"signal", nil, []string{"sh", "-c", "kill -TERM $$"}, "", 128 + 15, "", ""},
		{"timeout", []string{"--timeout", "500ms"}, []string{"sleep", "60"}, "", 124, "", ""},
		{"no program", nil, []string{"no-such-program"}, "", 127, "", "no-such-program"},
		{"not a program", nil, []string{"/etc/passwd"}, "", 126, "", "aether: "},
		{"why", []string{"-v"}, []string{"true"}, "", 0, "", "gvisor, asked for"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			args := append(append([]string{"run", "--vm", "gvisor"}, c.flags...), "--")
			code := run(append(args, c.argv...), strings.NewReader(c.stdin), &out, &errs)
			if code != c.code || out.String() != c.out || !strings.Contains(errs.String(), c.err) {
				t.Errorf("exit code %d, output %.200q, errors %q; want %d, %.200q, %q", code, out.String(), errs.String(), c.code, c.out, c.err)
			}
		})
	}
}

func TestRunInterrupted(t *testing.T) {
	available(t, vms.GVisor, "GVISOR")
	ctx, cancel := context.WithCancelCause(t.Context())
	started := make(chan struct{})
	out := writerFunc(func(p []byte) (int, error) { close(started); return len(p), nil })
	var errs bytes.Buffer
	a := &app{in: strings.NewReader(""), out: out, err: &errs}
	done := make(chan error, 1)
	go func() {
		root := newRoot(a)
		root.SetArgs([]string{"run", "--vm", "gvisor", "--", "sh", "-c", "echo up; sleep 600"})
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
