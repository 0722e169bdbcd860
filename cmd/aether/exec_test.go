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

func TestExecPassesTheProgramThrough(t *testing.T) {
	for _, system := range []struct {
		vm   vms.VM
		need string
	}{{vms.Docker, "DOCKER"}, {vms.GVisor, "GVISOR"}, {vms.QEMUKVM, "QEMU"}} {
		t.Run(system.vm.Name(), func(t *testing.T) {
			available(t, system.vm, system.need)
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
				{"signal", nil, []string{"sh", "-c", "kill -TERM $$"}, "", 128 + 15, "", ""},
				{"timeout", []string{"--timeout", "500ms"}, []string{"sleep", "60"}, "", 124, "", ""},
				{"no program", nil, []string{"no-such-program"}, "", 127, "", "no-such-program"},
				{"not a program", nil, []string{"/etc/passwd"}, "", 126, "", "aether: "},
			} {
				t.Run(c.name, func(t *testing.T) {
					var out, errs bytes.Buffer
					args := append([]string{"exec", "--vm", system.vm.Name()}, c.flags...)
					args = append(append(args, "--"), c.argv...)
					code := run(args, strings.NewReader(c.stdin), &out, &errs)
					if code != c.code || out.String() != c.out || !strings.Contains(errs.String(), c.err) {
						t.Errorf("exit code %d, output %q, errors %q; want %d, %q, %q", code, out.String(), errs.String(), c.code, c.out, c.err)
					}
				})
			}
		})
	}
}

func TestExecInterrupted(t *testing.T) {
	available(t, vms.Docker, "DOCKER")
	ctx, cancel := context.WithCancelCause(t.Context())
	started := make(chan struct{})
	out := writerFunc(func(p []byte) (int, error) { close(started); return len(p), nil })
	var errs bytes.Buffer
	a := &app{in: strings.NewReader(""), out: out, err: &errs}
	done := make(chan error, 1)
	go func() {
		root := newRoot(a)
		root.SetArgs([]string{"exec", "--vm", "docker", "--", "sh", "-c", "echo up; sleep 600"})
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
