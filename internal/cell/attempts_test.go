package cell

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/identity"
	"github.com/aethervm/aether/internal/microguest"
	"github.com/aethervm/aether/internal/probe/outside"
	"github.com/aethervm/aether/internal/testenv"
)

// errAllowed is what an attempt says that was not refused.
var errAllowed = errors.New("ALLOWED")

// call is an attempt that is a system call. Pointers are zero: the filter decides before they count.
func call(number uintptr, args ...uintptr) func() error {
	return func() error {
		var a [6]uintptr
		copy(a[:], args)
		if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return nil
		}
		return errAllowed
	}
}

// cellAttempts are tried by a confined process.
var cellAttempts = map[string]func() error{
	"open":             call(unix.SYS_OPEN, 0, unix.O_RDONLY),
	"openat":           func() error { return allowed1(os.Open("/")) },
	"openat2":          call(unix.SYS_OPENAT2, 0, 0),
	"stat":             call(unix.SYS_NEWFSTATAT, 0, 0),
	"socket":           call(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, 0),
	"socketpair":       call(unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_STREAM, 0),
	"connect":          call(unix.SYS_CONNECT, 3, 0, 0),
	"execve":           call(unix.SYS_EXECVE, 0, 0, 0),
	"execveat":         call(unix.SYS_EXECVEAT, 0, 0, 0, 0, 0),
	"ptrace":           call(unix.SYS_PTRACE, unix.PTRACE_TRACEME),
	"process_vm_readv": call(unix.SYS_PROCESS_VM_READV, 1),
	"mount":            call(unix.SYS_MOUNT, 0, 0, 0, unix.MS_BIND),
	"fsopen":           call(unix.SYS_FSOPEN, 0),
	"unshare":          call(unix.SYS_UNSHARE, unix.CLONE_NEWNS),
	"setns":            call(unix.SYS_SETNS, 3, 0),
	"chroot":           call(unix.SYS_CHROOT, 0),
	"kill":             call(unix.SYS_KILL, ^uintptr(0), 0),
	"tgkill":           call(unix.SYS_TGKILL, uintptr(os.Getppid()), uintptr(os.Getppid()), 0),
	"pidfd_open":       call(unix.SYS_PIDFD_OPEN, 1, 0),
	"clone namespace":  call(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD)),
	"fork":             call(unix.SYS_CLONE, uintptr(unix.SIGCHLD)),
	"clone3":           call(unix.SYS_CLONE3, 0, 1),
	"executable memory": call(unix.SYS_MMAP, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON,
		^uintptr(0)),
	"mprotect":        call(unix.SYS_MPROTECT, 0, 0, unix.PROT_EXEC),
	"setuid":          call(unix.SYS_SETUID, 0),
	"prctl":           call(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1),
	"foreign ioctl":   call(unix.SYS_IOCTL, 1, unix.TIOCSTI, 0),
	"bpf":             call(unix.SYS_BPF),
	"io_uring":        call(unix.SYS_IO_URING_SETUP, 1),
	"userfaultfd":     call(unix.SYS_USERFAULTFD, 0),
	"perf_event_open": call(unix.SYS_PERF_EVENT_OPEN),
	"keyctl":          call(unix.SYS_KEYCTL),
	"32-bit call":     call(unix.SYS_READ|0x40000000, 0), // x32

	// Without the filter, what the other layers do.
	"bare openat":  func() error { return allowed1(os.Open("/")) },
	"bare readdir": func() error { return allowed1(os.ReadDir("/")) },
	"bare passwd":  func() error { return allowed1(os.ReadFile("/etc/passwd")) },
	"bare mkdir":   func() error { return allowed0(os.Mkdir("/x", 0o700)) },
	"bare mount":   func() error { return allowed0(unix.Mount("none", "/", "tmpfs", 0, "")) },
	"bare unshare": func() error { return allowed0(unix.Unshare(unix.CLONE_NEWNS)) },
	"bare execve":  func() error { return allowed0(unix.Exec("/proc/self/exe", []string{"x"}, nil)) },
	"bare kill owner": func() error {
		if os.Getppid() == 0 { // it has no number in this PID namespace
			return nil
		}
		return allowed0(unix.Kill(os.Getppid(), 0))
	},
	"bare ptrace owner": func() error { return allowed0(unix.PtraceAttach(os.Getppid())) },
	"bare setuid":       func() error { return allowed0(unix.Setreuid(12345, 12345)) },
	"bare capability": func() error {
		for c := range 64 {
			if unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0) == nil {
				return errAllowed
			}
		}
		return nil
	},
	"bare TCP connect": func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return nil
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: 22, Addr: [4]byte{127, 0, 0, 1}})
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENETUNREACH) {
			return nil
		}
		return errors.Join(errAllowed, err)
	},
}

func allowed0(err error) error {
	if err != nil {
		return nil
	}
	return errAllowed
}

func allowed1[T any](_ T, err error) error { return allowed0(err) }

// try starts a cell that makes an attempt, and returns what came of it.
func try(t *testing.T, attempt string) error {
	t.Helper()
	c, err := start(t.Context(), Config{ID: testID, Program: thisProgram(), Kernel: guestFile(t, microguest.Say("up\n"), microguest.Spin()), VCPUs: 1, MemoryMiB: 64},
		trial{attempt: attempt, unfiltered: strings.HasPrefix(attempt, "bare ")})
	if err != nil {
		return err
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	waitConsole(t, c, "up")
	return nil
}

// A confined process that somebody has taken over can do none of this. It is refused, or dies.
func TestAttempts(t *testing.T) {
	needKVM(t)
	if usesCgo() {
		testenv.Require(t, "PURE_GO", "a build with cgo has no system call filter")
	}
	died := map[string]bool{}
	for name := range cellAttempts {
		t.Run(name, func(t *testing.T) {
			err := try(t, name)
			var end *EndError
			switch {
			case err == nil: // refused with an error
			case errors.As(err, &end) && strings.Contains(end.Detail, "system call that its filter does not allow"):
				died[name] = true
			default:
				t.Error(err)
			}
		})
	}
	for _, name := range []string{"open", "socket", "connect", "execve", "ptrace", "mount", "kill", "clone namespace", "fork"} {
		if !died[name] {
			t.Errorf("a process that tries %s goes on", name)
		}
	}
	noLeftovers(t)
}

func TestUnknownAttempt(t *testing.T) {
	needKVM(t)
	if err := try(t, "nothing of that name"); err == nil || !strings.Contains(err.Error(), "no such attempt") {
		t.Error(err)
	}
}

// Every way to start a process gives a cell, and says what it is not.
func TestWays(t *testing.T) {
	needKVM(t)
	id, err := identity.Take()
	if err != nil {
		t.Fatal(err)
	}
	defer id.Release()
	for _, w := range ways(id) {
		t.Run(w.name, func(t *testing.T) {
			c, err := start(t.Context(), Config{ID: testID, Program: program(t), Kernel: guestFile(t, microguest.Say("up\n"), microguest.Spin()), VCPUs: 1, MemoryMiB: 64},
				trial{way: w.name})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}()
			waitConsole(t, c, "up")
			missing := map[string]bool{}
			for _, l := range c.Confinement() {
				t.Logf("%+v", l)
				missing[l.Name] = !l.Applied
			}
			if missing[LayerNamespaces] != (w.namespaces == "") || missing[LayerRoot] != !w.mounts {
				t.Errorf("missing: %v", c.Confinement().Missing())
			}
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.PID()))
			if err != nil {
				t.Fatal(err)
			}
			want := []string{"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000"}
			uid := itoa(int(c.process.identity.UID()))
			want = append(want, "Uid:\t"+strings.Join([]string{uid, uid, uid, uid}, "\t"))
			if c.process.identity != nil && !w.users {
				want = append(want, "CapBnd:\t0000000000000000")
			}
			for _, line := range want {
				if !strings.Contains(string(status), line+"\n") && !usesCgo() {
					t.Errorf("no %q in its status:\n%s", line, status)
				}
			}
			for _, name := range []string{LayerLimits, LayerCapabilities, LayerSeccomp, LayerLandlock, LayerNoNewPrivs} {
				if missing[name] && !usesCgo() {
					t.Errorf("%s: %s", name, c.Confinement().Layer(name).Detail)
				}
			}
		})
	}
}

// What the judge sees from outside.
func TestConfinementFromOutside(t *testing.T) {
	testenv.Root(t)
	c := startGuest(t, nil, microguest.Spin())
	if missing := c.Confinement().Missing(); len(missing) > 0 && !usesCgo() {
		t.Errorf("missing: %+v", missing)
	}
	for _, f := range outside.LookAt([]int{c.PID()}) {
		t.Logf("%-35s %-8v %s %s %v", f.Name, f.Verdict, f.Value, f.Detail, f.Items)
		if f.Verdict == "worse" && !usesCgo() {
			t.Errorf("%s: %s %s %v", f.Name, f.Value, f.Detail, f.Items)
		}
	}
	for fd := range 16 {
		if target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", c.PID(), fd)); err == nil {
			t.Logf("%d %s", fd, target)
			if strings.Contains(target, "memfd:aether-cell") {
				t.Error("it has its own program open")
			}
		}
	}
}
