package pid1

import (
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRunRefuses(t *testing.T) {
	if err := Run(Serial()); err == nil {
		t.Error("a process that is not PID 1 became init")
	}
}

func TestLoadModules(t *testing.T) {
	dir := t.TempDir()
	var seen []string
	before := func(name string) error {
		seen = append(seen, name)
		return nil
	}
	if err := loadModules(filepath.Join(dir, "order"), before); err != nil {
		t.Errorf("without a list: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "order"), []byte("missing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := loadModules(filepath.Join(dir, "order"), before); err == nil || len(seen) != 1 || seen[0] != "missing" {
		t.Errorf("a module that is not there was loaded: %v, after %q", err, seen)
	}
}

func TestLateModules(t *testing.T) {
	dir := t.TempDir()
	list := filepath.Join(dir, "late")
	none, err := openLateModules(list)
	if err != nil || none.load() != nil {
		t.Errorf("without a list: %v, %v", none, err)
	}
	if err := os.WriteFile(list, []byte("one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "one.ko"), []byte("no module"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openLateModules(list); err == nil {
		t.Error("a module is not there, and nobody says so")
	}
	if err := os.WriteFile(filepath.Join(dir, "two.ko"), []byte("no module"), 0o600); err != nil {
		t.Fatal(err)
	}
	late, err := openLateModules(list)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil { // as the files are when the root has changed
		t.Fatal(err)
	}
	first, again := late.load(), late.load()
	if first == nil || again == nil || first.Error() != again.Error() {
		t.Errorf("files that are no modules were loaded: %v, then %v", first, again)
	}
}

func TestCgroupFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"pids.current": "12\n", "cpu.stat": "usage_usec 77\nuser_usec 5\n", "memory.max": "max\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	c := &cgroups{all: all, leftover: map[string]struct{}{}}
	if v, err := c.value("pids.current"); v != 12 || err != nil {
		t.Errorf("got %d, %v", v, err)
	}
	if v, err := c.keyed("cpu.stat", "usage_usec"); v != 77 || err != nil {
		t.Errorf("got %d, %v", v, err)
	}
	for _, err := range []error{
		second(c.value("memory.max")), second(c.value("none")), second(c.keyed("cpu.stat", "usage")), second(c.keyed("none", "x")),
	} {
		if err == nil {
			t.Error("no error")
		}
	}
	// Groups are made and removed; here as plain directories.
	g, err := c.newGroup()
	if err != nil {
		t.Fatal(err)
	}
	g.release()
	if _, err := os.Stat(filepath.Join(dir, g.name)); !os.IsNotExist(err) {
		t.Errorf("the group is still there: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// runReaper has r collect until the test ends: two reapers would take each other's children.
func runReaper(t *testing.T, r *reaper) {
	var running sync.WaitGroup
	running.Go(r.run)
	t.Cleanup(func() {
		signal.Stop(r.signals)
		close(r.signals)
		running.Wait()
	})
}

func TestReaper(t *testing.T) {
	var swept atomic.Int32
	r := newReaper(func() { swept.Add(1) })
	runReaper(t, r)
	for _, c := range []struct {
		script string
		want   func(unix.WaitStatus) bool
	}{
		{"exit 7", func(s unix.WaitStatus) bool { return s.ExitStatus() == 7 }},
		{"kill -TERM $$", func(s unix.WaitStatus) bool { return s.Signaled() && s.Signal() == unix.SIGTERM }},
	} {
		status, err := r.start("/bin/sh", []string{"sh", "-c", c.script}, &syscall.ProcAttr{})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case s := <-status:
			if !c.want(s) {
				t.Errorf("%s: status %#x", c.script, s)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: its end was missed", c.script)
		}
	}
	if _, err := r.start("/no/such/program", []string{"x"}, &syscall.ProcAttr{}); err == nil {
		t.Error("a program that is not there was started")
	}
	// A child that nobody waits for is collected all the same.
	pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); unix.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("an orphan is left")
		}
	}
	if swept.Load() == 0 {
		t.Error("nothing was swept afterwards")
	}
}
