package inside

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/probe/caps"
	"github.com/aethervm/aether/internal/probe/finding"
	"github.com/aethervm/aether/internal/testenv"
)

const confineEnv = "AETHER_INSIDE_CONFINE"

// TestMain lets the test binary stand in for the agent, confined or not.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Subcommand {
		if os.Getenv(confineEnv) != "" {
			if err := confine(); err != nil {
				fmt.Fprintln(os.Stderr, "confine:", err)
				os.Exit(3)
			}
		}
		os.Exit(Main(os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// confine finishes, in new namespaces, what a small container engine does, and starts over.
func confine() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, m := range []struct{ dir, fstype string }{{"/sys", "tmpfs"}, {"/dev", "tmpfs"}, {"/proc", "proc"}} {
		if err := unix.Mount("confine", m.dir, m.fstype, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Mount("", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		if caps.Harmless>>c&1 == 0 {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				return fmt.Errorf("drop capability %d: %w", c, err)
			}
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := installFilter(); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", []string{os.Args[0], Subcommand}, []string{})
}

// ask runs the probes in a process of their own and returns the findings by name.
func askAll(t *testing.T, confined bool) map[string]finding.Finding {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", Subcommand)
	cmd.Env = []string{}
	if confined {
		cmd.Env = []string{confineEnv + "=1"}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65534, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65534, Size: 1}},
			Credential:  &syscall.Credential{NoSetGroups: true},
		}
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("probe: %v: %s", err, stderr.String())
	}
	list, err := finding.Decode(bytes.NewReader(out))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	byName := map[string]finding.Finding{}
	for _, f := range list {
		byName[f.Name] = f
	}
	for _, p := range Probes() {
		if _, ok := byName[p.Name]; !ok {
			t.Errorf("no finding of %s", p.Name)
		}
	}
	if len(list) != len(Probes()) {
		t.Errorf("%d findings of %d probes", len(list), len(Probes()))
	}
	return byName
}

func TestConfinementIsSeen(t *testing.T) {
	testenv.Root(t)
	free, held := askAll(t, false), askAll(t, true)
	for _, name := range []string{
		"kernel.clock", "kernel.levers", "kernel.settings", "kernel.objects", "devices.nodes", "devices.open", "processes.foreign",
		"privileges.user", "privileges.capabilities-effective", "privileges.capabilities-bounding", "privileges.no-new-privs",
		"privileges.seccomp", "namespaces.mount",
	} {
		if free[name].Verdict != finding.Worse {
			t.Errorf("unconfined: %+v", free[name])
		}
		if held[name].Verdict != finding.Better {
			t.Errorf("confined: %+v", held[name])
		}
	}
	// Not worse everywhere without confinement: a build machine may have no network.
	for _, name := range []string{"network.interfaces", "network.routes", "network.metadata", "network.listeners", "kernel.log"} {
		if held[name].Verdict != finding.Better {
			t.Errorf("confined: %+v", held[name])
		}
	}
	if a, b := free[Identity].Items, held[Identity].Items; !slices.Equal(withoutTime(a), withoutTime(b)) {
		t.Errorf("one kernel, two identities: %q, %q", a, b)
	}
}

// withoutTime leaves out the boot time, which is computed anew and may differ by a second.
func withoutTime(items []string) []string {
	return slices.DeleteFunc(slices.Clone(items), func(s string) bool { return strings.HasPrefix(s, IdentityBooted) })
}

func TestFilteredCallsAreTold(t *testing.T) {
	testenv.Root(t)
	free, held := askAll(t, false), askAll(t, true)
	reached := func(f map[string]finding.Finding, family, call string) bool {
		return slices.Contains(f[SyscallPrefix+family].Items, call)
	}
	for _, c := range []struct{ family, call string }{
		{"code", "bpf"},               // answered with EPERM
		{"async", "io_uring_setup"},   // answered with ENOSYS
		{"keys", "add_key"},           // kills
		{"rare", "personality"},       // kills as well: the list goes on after each
		{"admin", "reboot"},           // no filter: the privilege is missing
		{"sockets", "socket(AF_ALG)"}, // by its argument
	} {
		if !reached(free, c.family, c.call) {
			t.Errorf("unconfined, %s was not reached: %+v", c.call, free[SyscallPrefix+c.family])
		}
		if reached(held, c.family, c.call) {
			t.Errorf("confined, %s was reached: %+v", c.call, held[SyscallPrefix+c.family])
		}
	}
	for _, c := range []struct{ family, call string }{{"keys", "keyctl"}, {"sockets", "socket(AF_PACKET)"}, {"rare", "ustat"}} {
		if !reached(held, c.family, c.call) {
			t.Errorf("%s is not filtered, but was not reached: %+v", c.call, held[SyscallPrefix+c.family])
		}
	}
	if d := held[SyscallPrefix+"keys"].Detail; d != "0 denied, 0 absent, 1 killed the caller" {
		t.Errorf("keys: %s", d)
	}
}

// TestProbingTwice checks that the answers are the same and that nothing has changed.
func TestProbingTwice(t *testing.T) {
	testenv.Root(t)
	before, clock := hostState(t), time.Now()
	first, second := askAll(t, false), askAll(t, false)
	for name, f := range first {
		g := second[name]
		if f.Verdict != g.Verdict {
			t.Errorf("%s: %s, then %s", name, f.Verdict, g.Verdict)
		}
		if strings.HasPrefix(name, SyscallPrefix) && (f.Value != g.Value || !slices.Equal(f.Items, g.Items)) {
			t.Errorf("%s: %v, then %v", name, f, g)
		}
	}
	if after := hostState(t); after != before {
		t.Errorf("probing changed the host:\n%s\n%s", before, after)
	}
	// The wall clock has gone on as the monotonic one has.
	now := time.Now()
	if drift := now.Round(0).Sub(clock.Round(0)) - now.Sub(clock); drift.Abs() > 100*time.Millisecond {
		t.Errorf("the clock was set: %v", drift)
	}
}

// hostState is what a probe that is not harmless could have changed.
func hostState(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, name := range []string{
		"/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname", "/proc/swaps", "/proc/sys/kernel/core_pattern",
		"/proc/sys/kernel/ostype", "/proc/sysvipc/shm", "/proc/sysvipc/msg", "/proc/self/personality", "/proc/self/limits",
	} {
		text, err := os.ReadFile(name)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s: %s\n", name, text)
	}
	// Others may mount meanwhile; the probes' own mounts have names of theirs.
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "mounts of probes: %d\n", strings.Count("\n"+string(mounts), "\nprobe "))
	return b.String()
}

func TestProbesAreDocumented(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range Probes() {
		if seen[p.Name] || p.Question == "" || p.Better == "" || p.Worse == "" || p.Scope == finding.ScopeHost || p.Scope == "" {
			t.Errorf("%+v", p)
		}
		seen[p.Name] = true
	}
	for _, c := range calls {
		if !seen[SyscallPrefix+c.family] {
			t.Errorf("%s is of no family", c.name)
		}
	}
}

func TestChildArguments(t *testing.T) {
	for _, args := range [][]string{{"x"}, {childSyscalls}, {childSyscalls, "-1"}, {childSyscalls, "x"}, {childNested, "x"}} {
		var stderr bytes.Buffer
		if code := Main(args, &bytes.Buffer{}, &stderr); code != 1 || stderr.Len() == 0 {
			t.Errorf("%q: code %d, %s", args, code, stderr.String())
		}
	}
	// Started by hand it would mount in the namespace of whoever does so.
	if err := nestedChild(&bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "namespace") {
		t.Errorf("nested, without a namespace: %v", err)
	}
}
