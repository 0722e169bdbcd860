package aethervm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/failcalls"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// A process that drives AetherVM while its system calls fail. It takes orders on its standard input, one a line, and answers
// each with a faultAnswer.

const faultsEnv = "AETHER_AETHERVM_FAULTS"

type faultAnswer struct {
	Err   string // of the order
	Typed bool   // it is a sandbox.Error
	Kind  string // of it
	Whole bool   // it has a cause and, for what the host has run out of, a remedy
	Wrong string // what must never be
	PIDs  []int  // of the original's cell
	Files []string
}

// faultCalls are the system calls that are made to fail, and how.
var faultCalls = map[uint32]syscall.Errno{
	unix.SYS_OPENAT: unix.EMFILE, unix.SYS_MEMFD_CREATE: unix.ENOMEM, unix.SYS_SOCKETPAIR: unix.EMFILE, unix.SYS_BIND: unix.ENOMEM,
	unix.SYS_PIPE2: unix.EMFILE, unix.SYS_CLONE: unix.EAGAIN, unix.SYS_MKDIRAT: unix.ENOSPC, unix.SYS_SENDMSG: unix.ENOBUFS,
	unix.SYS_RECVMSG: unix.ENOMEM, unix.SYS_FALLOCATE: unix.ENOSPC, unix.SYS_PWRITE64: unix.ENOSPC, unix.SYS_FTRUNCATE: unix.ENOMEM,
	unix.SYS_FSYNC: unix.ENOSPC, unix.SYS_RENAMEAT: unix.ENOSPC, unix.SYS_SYMLINKAT: unix.ENOSPC, unix.SYS_IOCTL: unix.ENOMEM,
	unix.SYS_EXECVE: unix.ENOMEM, unix.SYS_MOUNT: unix.ENOMEM, unix.SYS_SECCOMP: unix.ENOMEM, unix.SYS_MMAP: unix.ENOMEM,
	unix.SYS_FLOCK: unix.ENOLCK,
}

type faultDriver struct {
	ctx      context.Context
	image    sandbox.Image
	dir      string
	d        *Driver
	original *Sandbox
	kept     sandbox.Snapshot
}

func faultsMain() {
	if err := func() error {
		f := &faultDriver{dir: os.Getenv(faultsEnv)}
		if err := json.Unmarshal([]byte(os.Getenv(faultsEnv+"_IMAGE")), &f.image); err != nil {
			return err
		}
		var numbers []uint32
		for n := range faultCalls {
			numbers = append(numbers, n)
		}
		if err := failcalls.Offer(numbers...); err != nil {
			return err
		}
		lines, answers := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
		for lines.Scan() {
			if err := answers.Encode(f.obey(lines.Text())); err != nil {
				return err
			}
		}
		return nil
	}(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (f *faultDriver) obey(order string) (a faultAnswer) {
	var cancel context.CancelFunc
	f.ctx, cancel = context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	err := map[string]func() error{
		"begin": f.begin, "look": f.look, "end": f.end, "fork": f.fork, "snapshot": f.snapshot, "restore": f.restore,
		"create": f.create, "template": f.template, "fork template": f.forkTemplate,
	}[order]()
	if err != nil {
		a.Err = err.Error()
		var e *sandbox.Error
		if a.Typed = errors.As(err, &e); a.Typed {
			a.Kind = fmt.Sprint(e.Err)
			a.Whole = (e.Detail != "" || e.Err != nil) && (e.Remedy != "" || !errors.Is(err, sandbox.ErrNoSpace))
		}
	}
	if strings.Contains(a.Err, "WRONG") {
		a.Wrong = a.Err
	}
	if f.original != nil {
		a.PIDs = append(a.PIDs, f.original.machine.cell.PID())
	}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			a.Files = append(a.Files, to)
		}
	}
	return a
}

// run runs a script that must succeed and print want.
func (f *faultDriver) run(b sandbox.Sandbox, script, want string) error {
	var out strings.Builder
	exit, err := b.Exec(f.ctx, sandbox.Cmd{Args: []string{"sh", "-c", script}, Stdout: &out})
	if err == nil && (!exit.Success() || strings.TrimSpace(out.String()) != want) {
		err = fmt.Errorf("WRONG: %v, %q in place of %q", exit, out.String(), want)
	}
	return err
}

const isItself = "cat /root/word; cat /proc/sys/kernel/hostname"

func (f *faultDriver) whole(b sandbox.Sandbox) error { return f.run(b, isItself, "before\n"+b.ID()) }

func (f *faultDriver) begin() (err error) {
	if f.d, err = New(Options{}); err != nil {
		return err
	}
	b, err := f.d.Create(f.ctx, sandbox.Spec{Image: f.image})
	if err != nil {
		return err
	}
	f.original = b.(*Sandbox)
	if err := f.run(b, "echo before >/root/word; echo ok", "ok"); err != nil {
		return err
	}
	kept := filepath.Join(f.dir, "kept")
	if err := errors.Join(os.Mkdir(kept, 0o700), os.Mkdir(filepath.Join(f.dir, "another"), 0o700)); err != nil {
		return err
	}
	f.kept, err = f.original.Snapshot(f.ctx, kept)
	return err
}

// look finds out whether the original goes on, and what is left of what is over.
func (f *faultDriver) look() error {
	if err := f.whole(f.original); err != nil {
		return fmt.Errorf("WRONG: the original: %w", err)
	}
	f.d.spares.tasks.Wait() // spares in the making
	f.d.spares.expire()
	f.d.spares.tasks.Wait()
	var left []string
	store := filepath.Join(os.Getenv("AETHER_STATE"), "templates", System)
	for _, dir := range []string{f.dir, filepath.Join(f.dir, "another"), store, filepath.Join(store, namesName)} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if !slices.Contains([]string{"kept", "another", namesName, lockName}, e.Name()) {
				left = append(left, filepath.Join(dir, e.Name()))
			}
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("WRONG: left: %s", left)
	}
	return nil
}

func (f *faultDriver) end() error {
	err := errors.Join(f.original.Close(), f.d.RemoveSnapshot(f.ctx, f.kept), f.d.Close(), os.Remove(filepath.Join(f.dir, "kept")), os.Remove(filepath.Join(f.dir, "another")))
	f.original = nil
	return err
}

func (f *faultDriver) all(list []sandbox.Sandbox, err error) error {
	if err != nil && list != nil {
		return errors.New("WRONG: copies and an error")
	}
	for _, b := range list {
		err = errors.Join(err, f.whole(b))
	}
	return errors.Join(err, closeSandboxes(list))
}

func (f *faultDriver) create() error {
	b, err := f.d.Create(f.ctx, sandbox.Spec{Image: f.image})
	if err != nil {
		return err
	}
	return errors.Join(f.run(b, "echo ok", "ok"), b.Close())
}

func (f *faultDriver) fork() error { return f.all(f.original.Fork(f.ctx, 2)) }

func (f *faultDriver) snapshot() error {
	snap, err := f.original.Snapshot(f.ctx, filepath.Join(f.dir, "another"))
	if err != nil {
		return err
	}
	return again(func() error { return f.d.RemoveSnapshot(f.ctx, snap) })
}

// again repeats a removal that has failed, which is possible.
func again(remove func() error) error {
	if err := remove(); err != nil {
		return errors.Join(err, remove())
	}
	return nil
}

func (f *faultDriver) restore() error {
	b, err := f.d.Restore(f.ctx, f.kept)
	if err != nil {
		return err
	}
	return errors.Join(f.whole(b), b.Close())
}

func (f *faultDriver) template() error {
	if _, err := f.d.CreateTemplate(f.ctx, sandbox.TemplateSpec{Name: "t", Spec: sandbox.Spec{Image: f.image}}); err != nil {
		return err
	}
	return again(func() error { return f.d.RemoveTemplate(f.ctx, "t") })
}

func (f *faultDriver) forkTemplate() error {
	if _, err := f.d.CreateTemplate(f.ctx, sandbox.TemplateSpec{Name: "t", Spec: sandbox.Spec{Image: f.image},
		WarmUp: []sandbox.Cmd{{Args: []string{"sh", "-c", "echo before >/root/word"}}}}); err != nil {
		return err
	}
	err := f.all(f.d.ForkTemplate(f.ctx, "t", 1))
	return errors.Join(err, again(func() error { return f.d.RemoveTemplate(f.ctx, "t") }))
}

// faultRig is the test's end of a faultDriver.
type faultRig struct {
	calls *failcalls.Process
	cell  int
}

func newFaultRig(t *testing.T) *faultRig {
	t.Helper()
	available(t)
	testenv.TempRun(t)
	tempTemplates(t)
	dir := t.TempDir()
	img, err := json.Marshal(testenv.Image(t))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), faultsEnv+"="+dir, faultsEnv+"_IMAGE="+string(img))
	calls, err := failcalls.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	r := &faultRig{calls: calls}
	t.Cleanup(func() {
		if err := r.calls.Close(); err != nil {
			t.Error(err)
		}
		if left := leftovers(t); len(left) > 0 {
			t.Errorf("left: %s", left)
		}
	})
	if a := r.ask(t, "begin"); a.Err != "" {
		t.Fatalf("%+v", a)
	}
	return r
}

func (r *faultRig) ask(t *testing.T, order string) (a faultAnswer) {
	t.Helper()
	if err := r.calls.Ask(order, 150*time.Second, &a); err != nil {
		t.Fatal(err)
	}
	if len(a.PIDs) > 0 {
		r.cell = a.PIDs[0]
	}
	return a
}

// look finds that the original goes on, and what is open when nothing is under way.
func (r *faultRig) look(t *testing.T, what string) faultAnswer {
	t.Helper()
	a := r.ask(t, "look")
	if a.Err != "" {
		t.Fatalf("%s: %s", what, a.Err)
	}
	return a
}

// place is a kind of call of a side: the driver's process, the cell that is branched, or those that are started.
type place struct {
	side   string
	number uint32
}

// at tells where a call is. Mappings that the Go runtime makes do not count: it cannot do without. Nor do streams of
// the guest's programs.
func (r *faultRig) at(c failcalls.Call) (place, bool) {
	side := "copy"
	switch {
	case r.calls.Own(c):
		side = "driver"
	case c.PID == r.cell:
		side = "original"
	}
	return place{side, c.Number}, c.Number != unix.SYS_MMAP || int32(c.Args[4]) >= 0
}

// faultRounds is how many calls are made to fail: AETHER_TEST_FAULTS, or a few, which are too few for templates.
func faultRounds(t *testing.T) int {
	t.Helper()
	return testenv.Number(t, "AETHER_TEST_FAULTS", 4)
}

// Calls of forks, snapshots, restores, templates and creates fail, in the driver's process or in cells, each time another one:
// what comes of it is an error with kind, cause and remedy or a whole sandbox, and the original goes on.
func TestFailingCalls(t *testing.T) {
	r := newFaultRig(t)
	orders := []string{"fork", "snapshot", "restore", "fork", "create", "fork template", "template"}
	if n := faultRounds(t); n < len(orders) {
		orders = orders[:n]
	}
	counts := map[string]map[place]int{}
	for _, order := range orders { // what there is to fail
		if counts[order] != nil {
			continue
		}
		seen := map[place]int{}
		r.calls.Fail(func(c failcalls.Call) bool {
			if p, ok := r.at(c); ok {
				seen[p]++
			}
			return false
		}, 1, 0)
		a := r.ask(t, order)
		if _, _, err := r.calls.Stop(); err != nil || a.Err != "" {
			t.Fatalf("%s: %+v, %v", order, a, err)
		}
		counts[order] = seen
		t.Logf("%s: %v", order, seen)
	}
	files := r.look(t, "before").Files
	have := len(files)
	refused := 0
	for round := range faultRounds(t) {
		order := orders[round%len(orders)]
		places := make([]place, 0, len(counts[order]))
		for p := range counts[order] {
			places = append(places, p)
		}
		p := places[rand.N(len(places))]
		k := 1 + rand.N(counts[order][p])
		r.calls.Fail(func(c failcalls.Call) bool {
			at, ok := r.at(c)
			return ok && at == p
		}, k, faultCalls[p.number])
		begin := time.Now()
		a := r.ask(t, order)
		took := time.Since(begin)
		failed, _, err := r.calls.Stop()
		if err != nil {
			t.Fatal(err)
		}
		what := fmt.Sprintf("round %d: %s, call %d of number %d in the %s, %v", round, order, k, p.number, p.side, faultCalls[p.number])
		t.Logf("%s, %v: failed: %v, %s", what, took.Round(time.Millisecond), failed, a.Err)
		if a.Err != "" {
			refused++
		}
		switch {
		case a.Wrong != "":
			t.Errorf("%s: %s", what, a.Wrong)
		case a.Err != "" && (!a.Typed || !a.Whole):
			t.Errorf("%s: the error is not whole: %+v", what, a)
		case a.Err != "" && !failed:
			t.Errorf("%s: nothing has failed: %s", what, a.Err)
		case strings.Contains(a.Err, context.DeadlineExceeded.Error()):
			t.Errorf("%s: it hangs: %s", what, a.Err)
		}
		lost := 0
		if failed && p == (place{"driver", unix.SYS_CLONE}) {
			lost = failcalls.MapPipe
		}
		l := r.look(t, what)
		for wait := 0; len(l.Files) > have+lost && wait < 20; wait++ { // connections that are about to be closed
			time.Sleep(100 * time.Millisecond)
			l = r.look(t, what)
		}
		if len(l.Files) > have+lost {
			t.Errorf("%s: %d descriptors, %d before: %s; at first %s", what, len(l.Files), have, l.Files, files)
		}
		have = len(l.Files)
	}
	t.Logf("%d orders refused", refused)
	if a := r.ask(t, "end"); a.Err != "" {
		t.Errorf("%+v", a)
	}
}
