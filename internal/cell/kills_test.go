package cell

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/testenv"
)

// kills is how often something is killed at a random moment: AETHER_TEST_KILLS, or a few times.
func kills(t *testing.T) int {
	t.Helper()
	return testenv.Number(t, "AETHER_TEST_KILLS", 16)
}

// newKillsOwner is an owner in this process, with a parent that runs.
func newKillsOwner(t *testing.T) *faultOwner {
	t.Helper()
	testenv.Root(t)
	needKVM(t)
	o := &faultOwner{kernel: guestFile(t, beater(0)), program: program(t), dir: t.TempDir()}
	o.renew(t)
	t.Cleanup(func() {
		if err := o.parent.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

// renew starts a parent in place of one that was killed.
func (o *faultOwner) renew(t *testing.T) {
	t.Helper()
	o.pulse = pulse{}
	if err := o.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// children lists the processes that this one has started, but for the parent.
func (o *faultOwner) children() (pids []int) {
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for word := range strings.FieldsSeq(string(text)) {
			if pid := atoi(word); pid != o.parent.PID() {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// strike kills the copy that is there first, or the parent, so much later.
func (o *faultOwner) strike(parent bool, later time.Duration) {
	pid := o.parent.PID()
	if !parent {
		for begin := time.Now(); ; time.Sleep(100 * time.Microsecond) {
			if pids := o.children(); len(pids) > 0 {
				pid = pids[0]
				break
			}
			if time.Since(begin) > time.Second {
				return
			}
		}
	}
	time.Sleep(later)
	_ = unix.Kill(pid, unix.SIGKILL) // of a copy that is closed, nobody: numbers come back late
}

// A cell is killed at a random moment of a start, fork, save or restore, or of two that share it: the one that begins, or the one that is branched.
// What comes of it is an error that says so or a whole copy, nothing is left, and who was not killed goes on.
func TestKilledCells(t *testing.T) {
	o := newKillsOwner(t)
	orders := []struct {
		name   string
		do     func(context.Context) error
		parent bool // is the victim
		within time.Duration
	}{
		{"start", o.start, false, 20 * time.Millisecond},
		{"fork", o.fork, false, 20 * time.Millisecond},
		{"fork", o.fork, true, 30 * time.Millisecond},
		{"share", o.share, false, 50 * time.Millisecond},
		{"restore", o.restore, false, 20 * time.Millisecond},
		{"save", o.save, true, 15 * time.Millisecond},
	}
	files := len(openFiles())
	failed, rounds := 0, kills(t)
	for round := range rounds {
		order := orders[round%len(orders)]
		later := rand.N(order.within)
		struck := make(chan struct{})
		go func() {
			defer close(struck)
			o.strike(order.parent, later)
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		err := order.do(ctx)
		cancel()
		<-struck
		what := fmt.Sprintf("round %d, %s, parent: %v, after %v", round, order.name, order.parent, later)
		if err != nil {
			failed++
			if !errors.Is(err, ErrEnded) || strings.Contains(err.Error(), "WRONG") {
				t.Errorf("%s: %v", what, err)
			}
		}
		if order.parent {
			if e := waitEnd(t, o.parent); e.Reason != ReasonProcess {
				t.Errorf("%s: the parent has ended with %v", what, e)
			}
			if _, err := o.parent.Branch(t.Context()); !errors.Is(err, ErrEnded) {
				t.Errorf("%s: branch of a killed cell: %v", what, err)
			}
			o.renew(t)
		} else if err := o.pulse.beats(o.parent, false); err != nil {
			t.Fatalf("%s: the parent: %v", what, err)
		}
		if left := o.left(); left != "" {
			t.Fatalf("%s: left: %s", what, left)
		}
		if after := openFiles(); len(after) != files {
			t.Fatalf("%s: %d descriptors, %d before: %s", what, len(after), files, after)
		}
	}
	t.Logf("%d kills, %d orders failed", rounds, failed)
}

// An owner that forks until it is killed.

const churnEnv = "AETHER_CELL_CHURN"

func churnMain() {
	kernel, err := os.Open(os.Getenv(churnEnv))
	if err == nil {
		ctx := context.Background()
		o := &faultOwner{kernel: kernel, program: thisProgram(), dir: filepath.Join(filepath.Dir(kernel.Name()), "saved")}
		if !usesCgo() {
			o.program = os.NewFile(3, "program")
		}
		if err = o.begin(ctx); err == nil {
			_, _ = os.Stdout.WriteString("ready\n")
		}
		for err == nil {
			for _, do := range []func(context.Context) error{o.fork, o.start, o.save, o.restore} {
				err = errors.Join(err, do(ctx))
			}
		}
	}
	_, _ = os.Stderr.WriteString(err.Error())
	os.Exit(1)
}

// An owner is killed at a random moment of its forks: its cells die with it, and what is left of them are control groups,
// which a sweep removes, and files that were not finished. The next one begins as the first did.
func TestKilledOwners(t *testing.T) {
	testenv.Root(t)
	needKVM(t)
	dir := t.TempDir()
	saved := filepath.Join(dir, "saved")
	if err := os.Rename(guestFile(t, beater(0)).Name(), filepath.Join(dir, "kernel")); err != nil {
		t.Fatal(err)
	}
	swept, rounds := 0, kills(t)
	for round := range rounds {
		if err := os.Mkdir(saved, 0o700); err != nil {
			t.Fatal(err)
		}
		later := rand.N(150 * time.Millisecond)
		swept += killOwner(t, filepath.Join(dir, "kernel"), later)
		files, err := os.ReadDir(saved)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if f.Name() != "machine" && f.Name() != "another" && !strings.Contains(f.Name(), ".tmp-") {
				t.Errorf("round %d, after %v: %s is left", round, later, f.Name())
			}
		}
		o := &faultOwner{dir: saved}
		if _, err := os.Stat(filepath.Join(saved, "another")); err == nil { // what has its name is whole
			if err := o.readable(t.Context(), "another"); err != nil {
				t.Errorf("round %d, after %v: %v", round, later, err)
			}
		}
		if err := os.RemoveAll(saved); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills, %d control groups swept", rounds, swept)
}

// killOwner kills an owner some time after it has begun to fork, and returns how many control groups it has left.
func killOwner(t *testing.T, kernel string, later time.Duration) int {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), churnEnv+"="+kernel)
	cmd.ExtraFiles = []*os.File{program(t)}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	time.Sleep(later)
	prefix := fmt.Sprintf("aether-faults-%d", cmd.Process.Pid)
	users := usersOf(prefix)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if err != nil || line != "ready\n" {
		t.Fatalf("the owner says %q, %v", line, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	n, err := Sweep(ctx, prefix) // which waits for processes that are ending
	if err != nil {
		t.Fatalf("killed after %v: %v", later, err)
	}
	if again, err := Sweep(ctx, prefix); again != 0 || err != nil {
		t.Errorf("a second sweep: %d, %v", again, err)
	}
	// A process that was being started may have them for a moment longer.
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		taken := takenOf(t, users)
		if len(taken) == 0 {
			break
		}
		if time.Since(begin) > 5*time.Second {
			t.Errorf("killed after %v: users %v are still taken", later, taken)
			break
		}
	}
	return n
}

// usersOf are the users of the processes in the control groups whose names begin with prefix.
func usersOf(prefix string) (users []string) {
	for _, pattern := range []string{"/sys/fs/cgroup/pids/", "/sys/fs/cgroup/"} {
		groups, _ := filepath.Glob(pattern + prefix + "*/cgroup.procs")
		for _, g := range groups {
			text, _ := os.ReadFile(g)
			for pid := range strings.FieldsSeq(string(text)) {
				status, _ := os.ReadFile("/proc/" + pid + "/status")
				for line := range strings.Lines(string(status)) {
					if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
						users = append(users, strings.Fields(rest)[0])
					}
				}
			}
		}
	}
	return users
}

// takenOf are those of the users that are reserved.
func takenOf(t *testing.T, users []string) (taken []string) {
	t.Helper()
	marks, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	for _, uid := range users {
		if strings.Contains(string(marks), "@aether-uid-"+uid+"\n") {
			taken = append(taken, uid)
		}
	}
	return taken
}
