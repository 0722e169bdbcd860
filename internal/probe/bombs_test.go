package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/probe/finding"
	"github.com/aethervm/aether/sandbox"
)

// fake is a sandbox without anything behind it. Its guest process, if any, is this test.
type fake struct {
	sandbox.Sandbox
	memTotal string
	exec     func(sandbox.Cmd) (sandbox.Exit, error)
	bombs    *atomic.Int32
	closed   *atomic.Int32
}

func (f *fake) Exec(_ context.Context, c sandbox.Cmd) (sandbox.Exit, error) {
	switch {
	case c.Args[0] == "cat":
		_, err := io.WriteString(c.Stdout, f.memTotal)
		return sandbox.Exit{}, err
	case len(c.Args) > 1 && c.Args[1] == "bomb":
		f.bombs.Add(1)
		time.Sleep(time.Second)
		return sandbox.Exit{Code: -1, Signal: 9}, nil
	}
	return f.exec(c)
}

func (f *fake) Close() error {
	f.closed.Add(1)
	return nil
}

// inspected is a sandbox whose driver names its processes.
type inspected struct {
	*fake
	pids []int
}

func (i *inspected) HostProcesses(context.Context) ([]sandbox.HostProcess, error) {
	var list []sandbox.HostProcess
	for _, pid := range i.pids {
		list = append(list, sandbox.HostProcess{PID: pid, Role: sandbox.RoleGuest})
	}
	return list, nil
}

func fine(sandbox.Cmd) (sandbox.Exit, error) { return sandbox.Exit{}, nil }

func TestNoBombWithoutALimit(t *testing.T) {
	var made, closed, bombs atomic.Int32
	create := func(context.Context) (sandbox.Sandbox, error) {
		made.Add(1)
		// Process 1 is in no cgroup of its own, whoever runs the test.
		return &inspected{&fake{exec: fine, bombs: &bombs, closed: &closed}, []int{1}}, nil
	}
	r, err := Bombs(t.Context(), create, "runc")
	if err != nil {
		t.Fatal(err)
	}
	if bombs.Load() != 0 {
		t.Errorf("%d bombs were set off", bombs.Load())
	}
	for _, f := range r.Bombs {
		if f.Verdict == finding.Better || f.Value != "not run" {
			t.Errorf("%+v", f)
		}
	}
	if r.Metrics["isolation.bombs_ratio"] != 0 {
		t.Errorf("%v", r.Metrics)
	}
	if made.Load() != 4 || closed.Load() != 4 {
		t.Errorf("%d sandboxes made, %d closed", made.Load(), closed.Load())
	}
}

func TestNoBombWithoutAnInspector(t *testing.T) {
	var bombs, closed atomic.Int32
	create := func(context.Context) (sandbox.Sandbox, error) {
		return &fake{exec: fine, bombs: &bombs, closed: &closed}, nil
	}
	r, err := Bombs(t.Context(), create, "runc")
	if err != nil || bombs.Load() != 0 || r.Bombs[0].Verdict != finding.Unknown {
		t.Errorf("%d bombs, %+v, %v", bombs.Load(), r, err)
	}
}

func TestBombsInAMachine(t *testing.T) {
	if testing.Short() {
		t.Skip("keeps bombing for some seconds")
	}
	var made, bombs, closed atomic.Int32
	create := func(context.Context) (sandbox.Sandbox, error) {
		// Of each pair the sibling is made first. In the second the sibling dies of the bomb.
		n := made.Add(1)
		exec := fine
		if before := bombs.Load(); n == 3 {
			exec = func(sandbox.Cmd) (sandbox.Exit, error) {
				if bombs.Load() > before {
					return sandbox.Exit{}, fmt.Errorf("gone: %w", sandbox.ErrDead)
				}
				return sandbox.Exit{}, nil
			}
		}
		return &fake{exec: exec, bombs: &bombs, closed: &closed, memTotal: "MemTotal: 65536 kB\n"}, nil
	}
	r, err := Bombs(t.Context(), create, "tcg")
	if err != nil {
		t.Fatal(err)
	}
	if v := r.Bombs[0]; v.Verdict != finding.Better || v.Value != "contained" {
		t.Errorf("%+v", v)
	}
	if v := r.Bombs[1]; v.Verdict != finding.Worse || !strings.Contains(v.Detail, "gone") {
		t.Errorf("%+v", v)
	}
	if r.Metrics["isolation.bombs_ratio"] != 0.5 {
		t.Errorf("%v", r.Metrics)
	}
	for _, run := range r.Runs {
		if len(run.Ends) == 0 || run.Ends[0] != "signal 9" || run.Limit == "" || !run.Alive || run.Host.Count == 0 {
			t.Errorf("%+v", run)
		}
	}
	if closed.Load() != 4 {
		t.Errorf("%d sandboxes closed", closed.Load())
	}
}

func TestMachineLargerThanTheHost(t *testing.T) {
	var bombs, closed atomic.Int32
	create := func(context.Context) (sandbox.Sandbox, error) {
		return &fake{exec: fine, bombs: &bombs, closed: &closed, memTotal: "MemTotal: 99999999999 kB\n"}, nil
	}
	sb, _ := create(t.Context())
	if size, _, err := bombSize(t.Context(), sb, "memory", "kvm"); err == nil || size != 0 {
		t.Errorf("size %d, %v", size, err)
	}
}

func TestCreateFails(t *testing.T) {
	want := errors.New("no")
	var n, bombs, closed atomic.Int32
	create := func(context.Context) (sandbox.Sandbox, error) {
		if n.Add(1) == 2 {
			return nil, want
		}
		return &fake{exec: fine, bombs: &bombs, closed: &closed}, nil
	}
	if _, err := Bombs(t.Context(), create, "tcg"); !errors.Is(err, want) {
		t.Errorf("%v", err)
	}
	if closed.Load() != 1 {
		t.Errorf("the sibling was not closed")
	}
}

func TestLookRefusesAFlood(t *testing.T) {
	var bombs, closed atomic.Int32
	sb := &fake{bombs: &bombs, closed: &closed, exec: func(c sandbox.Cmd) (sandbox.Exit, error) {
		for {
			if _, err := c.Stdout.Write(make([]byte, 64<<10)); err != nil {
				return sandbox.Exit{}, err
			}
		}
	}}
	if _, err := Look(t.Context(), sb, "runc"); !errors.Is(err, errTooMuch) {
		t.Errorf("%v", err)
	}
}
