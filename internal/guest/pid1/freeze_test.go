package pid1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/guest/serve"
	"github.com/aethervm/aether/internal/testenv"
)

// testMachine is one with a control group of this host.
func testMachine(t *testing.T) *machine {
	t.Helper()
	mount := t.TempDir()
	if err := unix.Mount("cgroup2", mount, "cgroup2", 0, ""); err != nil {
		testenv.Require(t, "ROOT", err.Error())
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(mount, fmt.Sprintf("aether-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o700); err != nil {
		testenv.Require(t, "ROOT", err.Error())
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	all, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = all.Close() })
	m := newMachine(&cgroups{all: all, leftover: map[string]struct{}{}}, nil)
	m.late = &lateModules{}
	runReaper(t, m.reaper)
	t.Cleanup(func() { // the groups of what has ended, and the spare one
		if g := m.groups.spare; g != nil {
			if err := errors.Join(g.dir.Close(), m.groups.remove(g.name)); err != nil {
				t.Error(err)
			}
		}
		for start := time.Now(); time.Since(start) < 20*time.Second; time.Sleep(time.Millisecond) {
			m.groups.sweep()
			if left, _ := filepath.Glob(dir + "/*/"); len(left) == 0 {
				return
			}
		}
	})
	return m
}

// A program that is to be started while the machine is frozen waits, the agent goes on meanwhile, with one processor
// too, and in a copy the program is not started.
func TestStartWhileFrozen(t *testing.T) {
	m := testMachine(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, c := range []struct {
		want error
	}{{nil}, {errCopied}} {
		for range 2 { // the second one does nothing
			if err := m.Freeze(); err != nil {
				t.Fatal(err)
			}
		}
		var starting sync.WaitGroup
		const programs = 3
		results := make(chan error, programs)
		for range programs {
			starting.Add(1)
			go func() {
				starting.Done()
				p, err := m.Start(serve.Program{Path: "/bin/true", Args: []string{"true"}, Dir: "/", Stdio: [3]*os.File{null, null, null}})
				if err == nil {
					finish(t, p)
				}
				results <- err
			}()
		}
		starting.Wait()
		select {
		case err := <-results:
			t.Fatalf("a program was started in a frozen machine: %v", err)
		case <-time.After(200 * time.Millisecond): // the agent goes on: this is one of its goroutines
		}
		if c.want != nil {
			m.copied.Add(1) // as Thaw does, which would change this host's identity
		}
		if err := m.Thaw(agentproto.Config{}); err != nil {
			t.Fatal(err)
		}
		for range programs {
			select {
			case err := <-results:
				if !errors.Is(err, c.want) {
					t.Errorf("after the thaw: %v, want %v", err, c.want)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("a program that waited was not started")
			}
		}
	}
}

// The group of a program that has left nothing running is the next one's; any other is not.
func TestSpareGroup(t *testing.T) {
	m := testMachine(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	groupOf := func(script string) string {
		t.Helper()
		p, err := m.Start(serve.Program{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Dir: "/", Stdio: [3]*os.File{null, null, null}})
		if err != nil {
			t.Fatal(err)
		}
		finish(t, p)
		return p.(*process).group.name
	}
	if err := errors.Join(m.Freeze(), m.Thaw(agentproto.Config{})); err != nil {
		t.Fatal(err)
	}
	if m.groups.spare == nil {
		t.Fatal("none was made while the machine was frozen")
	}
	first := m.groups.spare.name
	if a, b := groupOf("true"), groupOf("true"); a != first || b != first {
		t.Errorf("programs ran in the groups %s and %s, not in the empty one, %s", a, b, first)
	}
	if name := groupOf("kill -9 $$"); name != first {
		t.Errorf("a program ran in the group %s", name)
	}
	if m.groups.spare != nil {
		t.Error("the group of a program that was killed is to be used again")
	}
	if first = groupOf("true"); m.groups.spare == nil || m.groups.spare.name != first {
		t.Error("the group of a program that has ended by itself is not kept")
	}
	if name := groupOf("sleep 60 >/dev/null 2>&1 &"); name != first {
		t.Errorf("a program ran in the group %s", name)
	}
	if m.groups.spare != nil {
		t.Error("a group in which a program runs is to be used again")
	}
	other := groupOf("true")
	if other == first {
		t.Error("two programs share a group")
	}
	dir, err := openDirAt(m.groups.all, first)
	if err != nil {
		t.Fatal(err)
	}
	(&group{tree: m.groups, name: first, dir: dir}).kill()
	if err := dir.Close(); err != nil {
		t.Error(err)
	}
	if m.groups.spare == nil || m.groups.spare.name != other {
		t.Error("the group of the last program is not kept")
	}
}

// The group of a program that has stopped it, or has made one below it, is not used again.
func TestGroupsOfPrograms(t *testing.T) {
	m := testMachine(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for name, do := range map[string]func(dir *os.File) error{
		"have stopped":            func(dir *os.File) error { return writeAt(dir, "cgroup.freeze", "1") },
		"have made groups within": func(dir *os.File) error { return unix.Mkdirat(int(dir.Fd()), "below", 0o755) },
	} {
		raw, err := m.Start(serve.Program{Path: "/bin/sleep", Args: []string{"sleep", "60"}, Dir: "/", Stdio: [3]*os.File{null, null, null}})
		if err != nil {
			t.Fatal(err)
		}
		p := raw.(*process)
		dir, err := openDirAt(m.groups.all, p.group.name)
		if err != nil {
			t.Fatal(err)
		}
		if err := do(dir); err != nil {
			t.Fatal(err)
		}
		p.Kill()
		finish(t, p)
		if m.groups.spare != nil {
			t.Errorf("one that programs %s is kept for the next", name)
		}
		_ = unix.Unlinkat(int(dir.Fd()), "below", unix.AT_REMOVEDIR)
		_ = dir.Close()
	}
}

func finish(t *testing.T, p serve.Process) {
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		t.Error("a program does not end")
	}
	p.Release()
}
