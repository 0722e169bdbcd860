package cell

import (
	"context"
	"errors"
	"fmt"
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
)

// faultRig is the test's end of a faultOwner.
type faultRig struct {
	calls  *failcalls.Process
	parent int
	files  int // that the owner has open
	gone   bool
	saved  string // a branch that was saved
}

func newFaultRig(t *testing.T) *faultRig {
	t.Helper()
	testenv.Root(t)
	needKVM(t)
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "saved"), 0o700), os.Rename(guestFile(t, beater(0)).Name(), filepath.Join(dir, "kernel"))); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), faultsEnv+"="+dir)
	if !usesCgo() {
		cmd.Env = append(cmd.Env, faultsEnv+"_PROGRAM=/proc/self/fd/3")
		cmd.ExtraFiles = []*os.File{program(t)}
	}
	calls, err := failcalls.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	r := &faultRig{calls: calls, saved: filepath.Join(dir, "saved", "machine")}
	t.Cleanup(func() {
		if err := r.calls.Close(); err != nil {
			t.Error(err)
		}
		if n, err := Sweep(context.Background(), fmt.Sprintf("aether-faults-%d", r.calls.PID())); n != 0 || err != nil {
			t.Errorf("%d control groups are left, %v", n, err)
		}
	})
	r.begin(t)
	return r
}

// begin has the owner start a parent, in place of the one that there may be.
func (r *faultRig) begin(t *testing.T) {
	t.Helper()
	for _, order := range []string{"parent", "look"} {
		a := r.ask(t, order)
		if a.Err != "" || a.Wrong != "" {
			t.Fatalf("%+v", a)
		}
		r.parent, r.files = a.Parent, len(a.Files)
	}
}

func (r *faultRig) ask(t *testing.T, order string) (a faultAnswer) {
	t.Helper()
	if err := r.calls.Ask(order, 40*time.Second, &a); err != nil {
		r.gone = true
		t.Fatal(err)
	}
	return a
}

// sides are whose system calls fail: the owner's, those of the cell that is branched, those of one that is started.
func (r *faultRig) sides() map[string]func(failcalls.Call) bool {
	return map[string]func(failcalls.Call) bool{
		"owner":  r.calls.Own,
		"parent": func(c failcalls.Call) bool { return c.PID == r.parent },
		"copy":   func(c failcalls.Call) bool { return c.PID != r.parent && !r.calls.Own(c) },
	}
}

// fault is a system call that fails.
type fault struct {
	name   string
	number uint32
	errno  syscall.Errno
	// only, if not nil, says which of these calls.
	only func(r *faultRig, c failcalls.Call) bool
	// leaks is how many descriptors are lost each time, not by code of this repository.
	leaks int
}

// fcntl are those of one command: the others cannot fail.
func fcntl(command uint64) func(*faultRig, failcalls.Call) bool {
	return func(_ *faultRig, c failcalls.Call) bool { return c.Args[1] == command }
}

// ofFiles are mappings of files, such as layers. The Go runtime makes the others, and cannot do without.
func ofFiles(_ *faultRig, c failcalls.Call) bool { return int32(c.Args[4]) >= 0 }

// notAnswers are writes of anything but answers to the test.
func notAnswers(r *faultRig, c failcalls.Call) bool {
	to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", c.PID, int32(c.Args[0])))
	return (!r.calls.Own(c) || c.Args[0] > 2) && !strings.Contains(to, "eventfd") && !strings.Contains(to, "comm")
}

func faults() map[string][]fault {
	always := []fault{
		{name: "open", number: unix.SYS_OPENAT, errno: unix.EMFILE},
		{name: "memfd", number: unix.SYS_MEMFD_CREATE, errno: unix.ENOMEM},
		{name: "dup", number: unix.SYS_FCNTL, errno: unix.EMFILE, only: fcntl(unix.F_DUPFD_CLOEXEC)},
		{name: "seal", number: unix.SYS_FCNTL, errno: unix.ENOMEM, only: fcntl(unix.F_ADD_SEALS)},
		{name: "sendmsg", number: unix.SYS_SENDMSG, errno: unix.ENOBUFS},
		{name: "recvmsg", number: unix.SYS_RECVMSG, errno: unix.ENOMEM},
		{name: "pwrite", number: unix.SYS_PWRITE64, errno: unix.ENOSPC},
		{name: "pread", number: unix.SYS_PREAD64, errno: unix.EIO},
		{name: "ftruncate", number: unix.SYS_FTRUNCATE, errno: unix.ENOMEM},
		{name: "fallocate", number: unix.SYS_FALLOCATE, errno: unix.ENOSPC},
		{name: "epoll_ctl", number: unix.SYS_EPOLL_CTL, errno: unix.ENOSPC},
		{name: "fstat", number: unix.SYS_FSTAT, errno: unix.ENOMEM},
		{name: "ioctl", number: unix.SYS_IOCTL, errno: unix.ENOMEM},
		{name: "write", number: unix.SYS_WRITE, errno: unix.ENOBUFS, only: notAnswers},
	}
	files := fault{name: "mmap", number: unix.SYS_MMAP, errno: unix.ENOMEM, only: ofFiles}
	owner := slices.Concat(always, []fault{
		files,
		{name: "socketpair", number: unix.SYS_SOCKETPAIR, errno: unix.EMFILE},
		{name: "socket", number: unix.SYS_SOCKET, errno: unix.EMFILE},
		{name: "bind", number: unix.SYS_BIND, errno: unix.ENOMEM},
		{name: "pipe", number: unix.SYS_PIPE2, errno: unix.EMFILE},
		{name: "process", number: unix.SYS_CLONE, errno: unix.EAGAIN, leaks: failcalls.MapPipe},
		{name: "namespaces", number: unix.SYS_CLONE, errno: unix.ENOMEM, leaks: failcalls.MapPipe},
		{name: "cgroup", number: unix.SYS_MKDIRAT, errno: unix.ENOSPC},
		{name: "fsync", number: unix.SYS_FSYNC, errno: unix.ENOSPC},
		{name: "rename", number: unix.SYS_RENAMEAT, errno: unix.ENOSPC},
		{name: "chmod", number: unix.SYS_FCHMOD, errno: unix.EIO},
	})
	copied := slices.Concat(always, []fault{
		{name: "mmap", number: unix.SYS_MMAP, errno: unix.ENOMEM},
		{name: "execve", number: unix.SYS_EXECVE, errno: unix.ENOMEM},
		{name: "mount", number: unix.SYS_MOUNT, errno: unix.ENOMEM},
		{name: "pivot_root", number: unix.SYS_PIVOT_ROOT, errno: unix.ENOMEM},
		{name: "umount", number: unix.SYS_UMOUNT2, errno: unix.ENOMEM},
		{name: "chdir", number: unix.SYS_CHDIR, errno: unix.ENOMEM},
		{name: "setrlimit", number: unix.SYS_PRLIMIT64, errno: unix.ENOMEM},
		{name: "seccomp", number: unix.SYS_SECCOMP, errno: unix.ENOMEM},
		{name: "landlock ruleset", number: unix.SYS_LANDLOCK_CREATE_RULESET, errno: unix.EMFILE},
		{name: "landlock", number: unix.SYS_LANDLOCK_RESTRICT_SELF, errno: unix.ENOMEM},
		{name: "capset", number: unix.SYS_CAPSET, errno: unix.ENOMEM},
	})
	return map[string][]fault{"owner": owner, "parent": append(always, files), "copy": copied}
}

// thorough tells whether each call is made to fail, which takes minutes, and not only the first ones and some of the rest.
func thorough() bool { return os.Getenv("AETHER_TEST_FAULTS") == "all" }

// Each system call that a fork, branch, start, save or restore makes, in its owner and in its cells, fails once: the result
// is an error with its cause or a whole copy, nothing is left, and the parent goes on.
func TestFailingCalls(t *testing.T) {
	r := newFaultRig(t)
	for _, order := range []string{"branch", "fork", "share", "start", "save", "restore"} {
		for side, list := range faults() {
			if side == "parent" && (order == "start" || order == "restore") || side == "copy" && (order == "branch" || order == "save") {
				continue
			}
			for _, f := range list {
				if r.gone {
					return
				}
				t.Run(fmt.Sprintf("%s/%s/%s", order, side, f.name), func(t *testing.T) { r.failEach(t, order, side, f) })
			}
		}
	}
}

// failEach has the first call fail, then the second, until an order makes no more of them.
func (r *faultRig) failEach(t *testing.T, order, side string, f fault) {
	refused, k := 0, 1
	for ; ; k++ {
		if !thorough() {
			k += k / 4
		}
		of := r.sides()[side]
		r.calls.Fail(func(c failcalls.Call) bool {
			return c.Number == f.number && of(c) && (f.only == nil || f.only(r, c))
		}, k, f.errno)
		a := r.ask(t, order)
		failed, _, err := r.calls.Stop()
		if err != nil {
			t.Fatal(err)
		}
		if a.Err != "" {
			refused++
		}
		switch {
		case a.Wrong != "":
			t.Errorf("call %d: %s", k, a.Wrong)
		case a.Deadline:
			t.Errorf("call %d: it hangs: %s", k, a.Err)
		case a.Err != "" && !strings.Contains(a.Err, f.errno.Error()) && !strings.Contains(a.Err, "has ended"):
			t.Errorf("call %d: the cause is missing: %s", k, a.Err)
		case a.Err != "" && !failed:
			t.Errorf("call %d: nothing has failed: %s", k, a.Err)
		}
		l := r.ask(t, "look")
		if a.Err != "" {
			r.files += f.leaks
		}
		if n := len(l.Files); n != r.files {
			t.Errorf("call %d: %d descriptors, %d before: %s; the order: %q", k, n, r.files, l.Files, a.Err)
			r.files = n
		}
		if l.Wrong != "" {
			t.Errorf("call %d: %s; the order: %q", k, l.Wrong, a.Err)
			r.begin(t)
		}
		if !failed {
			break
		}
	}
	if k > 1 {
		t.Logf("up to %d calls, %d orders refused", k-1, refused)
	}
}
