package aethervm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// open returns a driver.
func open(t *testing.T) *Driver {
	t.Helper()
	available(t)
	testenv.TempRun(t)
	d, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// create returns a sandbox of d.
func create(t *testing.T, d *Driver) *Sandbox {
	t.Helper()
	b, err := d.Create(bounded(t), sandbox.Spec{Image: testenv.Image(t), VCPUs: vcpus(t)})
	if err != nil {
		t.Fatal(err)
	}
	return b.(*Sandbox)
}

func sh(t *testing.T, b sandbox.Sandbox, script string) string {
	t.Helper()
	var out bytes.Buffer
	exit, err := b.Exec(bounded(t), sandbox.Cmd{Args: []string{"sh", "-c", script}, Stdout: &out})
	if err != nil || !exit.Success() {
		t.Fatalf("%s: %v, %v", script, exit, err)
	}
	return strings.TrimSpace(out.String())
}

// dead checks that a sandbox says that it has died, and why.
func dead(t *testing.T, b sandbox.Sandbox, err error, why string) {
	t.Helper()
	var typed *sandbox.Error
	if !errors.Is(err, sandbox.ErrDead) || !errors.As(err, &typed) || !strings.Contains(typed.Detail, why) {
		t.Errorf("got %v, want ErrDead with %q", err, why)
	}
	if _, err := b.Stat(t.Context(), "/"); !errors.Is(err, sandbox.ErrDead) {
		t.Errorf("afterwards: %v, want ErrDead", err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestGuest(t *testing.T) {
	d := open(t)
	b := create(t, d)
	want := d.Probe(t.Context()).Notes[0]
	if got := "guest kernel " + sh(t, b, "uname -r"); got != want {
		t.Errorf("%s runs, %s was told", got, want)
	}
	if n := sh(t, b, "nproc"); n != strconv.Itoa(max(1, vcpus(t))) {
		t.Errorf("%s processors", n)
	}
	if got := sh(t, b, "ls /sys/class/net"); got != "lo" {
		t.Errorf("network interfaces: %s", got)
	}
	procs, err := b.HostProcesses(t.Context())
	if err != nil || len(procs) != 1 || procs[0].GuestRAM != int64(ramMiB(sandbox.DefaultMemoryMiB))<<20 {
		t.Errorf("processes %+v, %v", procs, err)
	}
	if _, err := b.Stats(bounded(t)); err != nil {
		t.Error(err)
	}
}

func TestMachineIsKilled(t *testing.T) {
	b := create(t, open(t))
	time.AfterFunc(300*time.Millisecond, func() { _ = unix.Kill(b.machine.cell.PID(), unix.SIGKILL) })
	_, err := b.Exec(bounded(t), sandbox.Cmd{Args: []string{"sleep", "300"}})
	dead(t, b, err, "killed")
}

func TestGuestPanics(t *testing.T) {
	b := create(t, open(t))
	_, err := b.Exec(bounded(t), sandbox.Cmd{Args: []string{"sh", "-c", "echo c > /proc/sysrq-trigger; sleep 300"}})
	dead(t, b, err, "kernel panic: sysrq")
}

// A paused sandbox answers nothing until it goes on.
func TestPause(t *testing.T) {
	b := create(t, open(t))
	if err := errors.Join(b.Pause(bounded(t)), b.Pause(bounded(t))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := b.Stat(ctx, "/"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while paused: %v", err)
	}
	if err := errors.Join(b.Resume(bounded(t)), b.Resume(bounded(t))); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, b, "echo on"); got != "on" {
		t.Errorf("got %q", got)
	}
}

func TestWhatItRefuses(t *testing.T) {
	d, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for name, c := range map[string]struct {
		change func(*sandbox.Spec)
		want   error
	}{
		"rules without a network":        {func(s *sandbox.Spec) { s.Egress = []string{"pypi.org"} }, sandbox.ErrInvalid},
		"more processors than there are": {func(s *sandbox.Spec) { s.VCPUs = sandbox.MaxVCPUs }, sandbox.ErrUnsupported},
		"more memory than the host has":  {func(s *sandbox.Spec) { s.MemoryMiB = sandbox.MaxMemoryMiB }, sandbox.ErrNoSpace},
		"an image that is not there":     {func(s *sandbox.Spec) { s.Image.Rootfs = "/no/such" }, sandbox.ErrInvalid},
	} {
		spec := sandbox.Spec{Image: testenv.Image(t)}
		c.change(&spec)
		sb, err := d.Create(bounded(t), spec)
		if e, ok := errors.AsType[*sandbox.Error](err); !ok || !errors.Is(err, c.want) || e.Remedy == "" {
			t.Errorf("%s: %v, want %v with a remedy", name, err, c.want)
		}
		if err == nil {
			_ = sb.Close()
		}
	}
}

// TestProbeWithoutKVM: where guests cannot run, Probe and Create say why, with a remedy.
func TestProbeWithoutKVM(t *testing.T) {
	d, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	info := d.Probe(t.Context())
	if info.System != System || info.Version == "" || info.Available == (info.Reason != "") {
		t.Errorf("incomplete: %+v", info)
	}
	if info.Available {
		t.Skip("guests run here")
	}
	_, err = d.Create(bounded(t), sandbox.Spec{Image: testenv.Image(t)})
	if e, ok := errors.AsType[*sandbox.Error](err); !ok || !errors.Is(err, sandbox.ErrUnavailable) || e.Detail != info.Reason || e.Remedy != info.Remedy {
		t.Errorf("created: %v; probed: %+v", err, info)
	}
}

func TestRAM(t *testing.T) {
	for programs, want := range map[int]int{64: 161, 256: 356, 1024: 1136, 65536: 66656} {
		if got := ramMiB(programs); got != want {
			t.Errorf("%d MiB of RAM for %d MiB of programs, want %d", got, programs, want)
		}
	}
}

// TestKillAnyTime kills machines with SIGKILL at random moments of their lives: nothing may be left
// or hang, and the next sandbox must start. AETHER_TEST_KILLS is how many, 12 if it is not set.
func TestKillAnyTime(t *testing.T) {
	rounds := testenv.Number(t, "AETHER_TEST_KILLS", 12)
	d := open(t)
	start := time.Now()
	if err := create(t, d).Close(); err != nil {
		t.Fatal(err)
	}
	life := time.Since(start) // of one sandbox that does nothing
	for i := range rounds {
		killOne(t, d, i%3, life)
		if left := leftovers(t); len(left) > 0 {
			t.Fatalf("round %d left %s", i, strings.Join(left, ", "))
		}
	}
	if got := sh(t, create(t, d), "echo alive"); got != "alive" {
		t.Errorf("afterwards: %q", got)
	}
}

// killOne makes a sandbox and kills it: while it starts, while programs run, or while it is closed.
func killOne(t *testing.T, d *Driver, phase int, life time.Duration) {
	t.Helper()
	type created struct {
		b   sandbox.Sandbox
		err error
	}
	made := make(chan created, 1)
	spec := sandbox.Spec{Image: testenv.Image(t), VCPUs: vcpus(t)}
	go func() {
		b, err := d.Create(bounded(t), spec)
		made <- created{b, err}
	}()
	moment := rand.N(life)
	if phase == 0 {
		killCells(t, moment)
	}
	c := <-made
	if c.err != nil {
		if _, ok := errors.AsType[*sandbox.Error](c.err); !ok || phase != 0 {
			t.Errorf("create, killed after %v: %v", moment, c.err)
		}
		return
	}
	ended := make(chan error, 1)
	go func() {
		_, err := c.b.Exec(bounded(t), sandbox.Cmd{Args: []string{"sh", "-c", "while :; do :; done & cat /dev/zero"}, Stdout: discard{}})
		ended <- err
	}()
	moment = rand.N(200 * time.Millisecond)
	time.Sleep(moment)
	want := sandbox.ErrDead
	if phase == 2 {
		want = sandbox.ErrClosed
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			time.Sleep(rand.N(10 * time.Millisecond))
			killNow(t)
		}()
		if err := c.b.Close(); err != nil {
			t.Errorf("close of a machine that is being killed: %v", err)
		}
		<-killed // none of the next sandbox
	} else {
		killCells(t, 0)
	}
	if err := <-ended; !errors.Is(err, want) && !errors.Is(err, sandbox.ErrDead) {
		t.Errorf("exec, killed after %v: %v, want %v", moment, err, want)
	}
	if err := c.b.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// killCells waits for the process of a cell and kills all that there are some time later. There may be
// none when that time has come.
func killCells(t *testing.T, later time.Duration) {
	for deadline := time.Now().Add(5 * time.Second); len(cells(t)) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return
		}
	}
	time.Sleep(later)
	killNow(t)
}

// killNow kills what there is of cells.
func killNow(t *testing.T) {
	for _, pid := range cells(t) {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// cells lists the processes that this one has started and that have not been waited for.
func cells(t *testing.T) []int {
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(tasks) == 0 {
		t.Errorf("list children: %q, %v", tasks, err)
	}
	var pids []int
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that has ended
		}
		for word := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// leftovers lists what closed sandboxes of this process have left.
func leftovers(t *testing.T) []string {
	t.Helper()
	var left []string
	for _, pid := range cells(t) {
		left = append(left, fmt.Sprintf("process %d", pid))
	}
	marks, err := filepath.Glob(os.Getenv("AETHER_RUN") + "/" + System + "/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range marks {
		if filepath.Base(m) != "lock" {
			left = append(left, m)
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && strings.HasPrefix(e.Name(), "aether-") {
			left = append(left, path)
		}
		return nil //nolint:nilerr // removed while we walk
	})
	return left
}
