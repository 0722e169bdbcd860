package outside

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/host"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/internal/probe/finding"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

const sleeperEnv = "AETHER_OUTSIDE_SLEEPER"

// TestMain lets the test binary stand in for a process that runs guest code.
func TestMain(m *testing.M) {
	if what := os.Getenv(sleeperEnv); what != "" {
		if what == "confined" {
			if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
				os.Exit(1)
			}
		}
		_, _ = os.Stdout.WriteString("up\n")
		_, _ = os.Stdin.Read(make([]byte, 1)) // until the test closes it
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// sleeper starts a process and returns its ID.
func sleeper(t *testing.T, what string, attr *syscall.SysProcAttr, extra ...*os.File) int {
	t.Helper()
	cmd := exec.Command("/proc/self/exe") // also for a user who cannot enter the directory of the test binary
	cmd.Env = []string{sleeperEnv + "=" + what}
	cmd.SysProcAttr, cmd.ExtraFiles = attr, extra
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func verdicts(list []finding.Finding) map[string]finding.Verdict {
	m := map[string]finding.Verdict{}
	for _, f := range list {
		m[f.Name] = f.Verdict
	}
	return m
}

func TestUnconfined(t *testing.T) {
	testenv.Root(t)
	found := verdicts(LookAt([]int{sleeper(t, "free", nil)}))
	for name, v := range found {
		want := finding.Worse
		switch name {
		case "process.landlock":
			want = finding.Unknown
		case "process.files":
			want = finding.Better
		case "process.seccomp", "process.no-new-privs": // inherited from whatever runs the test
			continue
		}
		if v != want {
			t.Errorf("%s is %s, want %s", name, v, want)
		}
	}
}

func TestConfined(t *testing.T) {
	testenv.Root(t)
	pid := sleeper(t, "confined", &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65534, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65534, Size: 1}},
		Credential:  &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true},
	})
	list := LookAt([]int{pid})
	for _, name := range []string{
		"process.user", "process.capabilities-effective", "process.no-new-privs", "process.namespace-mnt", "process.namespace-pid",
		"process.namespace-net", "process.namespace-ipc", "process.namespace-uts", "process.namespace-user", "process.namespace-cgroup",
	} {
		if v := verdicts(list)[name]; v != finding.Better {
			t.Errorf("%s is %s, want better", name, v)
		}
	}
	if v := verdicts(list)["process.root"]; v != finding.Worse {
		t.Errorf("process.root is %s, though the root is the host's", v)
	}
	// Looking again changes nothing.
	if again := verdicts(LookAt([]int{pid})); !maps.Equal(again, verdicts(list)) {
		t.Errorf("the second look differs: %v\n%v", again, verdicts(list))
	}
	// Beside an unconfined process the worse of the two decides.
	for name, v := range verdicts(LookAt([]int{pid, sleeper(t, "free", nil)})) {
		if name == "process.namespace-net" && v != finding.Worse {
			t.Errorf("of two processes, %s is %s", name, v)
		}
	}
}

func TestOpenFiles(t *testing.T) {
	testenv.Root(t)
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	for _, f := range LookAt([]int{sleeper(t, "free", nil, null, dir)}) {
		if f.Name == "process.files" && (f.Verdict != finding.Worse || len(f.Items) != 1 || f.Items[0] != "directory "+dir.Name()) {
			t.Errorf("%+v", f)
		}
	}
}

func TestChangedRoot(t *testing.T) {
	testenv.Root(t)
	pid := sleeper(t, "free", nil)
	p, err := open(pid)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := p.hostRoot(); err != nil || !same {
		t.Errorf("hostRoot is %v, %v", same, err)
	}
	// A process whose root is another directory: /proc/PID/root of a child that chroots.
	cmd := exec.Command("/bin/sleep", "60")
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/sleep"), binary, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Env = []string{sleeperEnv + "=free"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("the test binary does not run in an empty root: %v", err)
	}
	defer func() {
		_ = in.Close()
		_ = cmd.Wait()
	}()
	if v := verdicts(LookAt([]int{cmd.Process.Pid}))["process.root"]; v != finding.Better {
		t.Errorf("process.root of a process in another root is %s", v)
	}
}

func TestEndedProcess(t *testing.T) {
	for _, pids := range [][]int{nil, {1 << 30}} {
		list := LookAt(pids)
		if len(list) != len(Probes()) {
			t.Fatalf("%d findings", len(list))
		}
		for _, f := range list {
			if f.Verdict != finding.Unknown || f.Detail == "" {
				t.Errorf("%+v", f)
			}
		}
	}
}

// limited puts a process into a fresh cgroup with limits, whatever version the host has, and ends it
// before the cgroup is removed.
func limited(t *testing.T, pid int, memory, processes string) {
	t.Helper()
	groups, err := host.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	id := "aether-test-" + lease.NewID()
	made := 0
	for _, set := range []struct{ controller, file, value string }{
		{"memory", "memory.limit_in_bytes", memory}, {"pids", "pids.max", processes},
		{"", "memory.max", memory}, {"", "pids.max", processes},
	} {
		mount, ok := groups.Hierarchies[set.controller]
		if !ok {
			continue
		}
		dir := filepath.Join(mount, id, "inner")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			testenv.Require(t, "CGROUP", err.Error())
		}
		t.Cleanup(func() {
			_ = unix.Kill(pid, unix.SIGKILL)
			for range 100 { // it leaves the cgroup when it has ended
				if err := os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			_ = os.Remove(filepath.Dir(dir))
		})
		// The limit is on the outer group, the process in the inner one.
		if os.WriteFile(filepath.Join(mount, id, set.file), []byte(set.value), 0o600) == nil {
			made++
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if made < 2 {
		testenv.Require(t, "CGROUP", "memory and pids controllers cannot be used here")
	}
}

func TestLimits(t *testing.T) {
	testenv.Root(t)
	if l, err := LimitsOf(os.Getpid()); err != nil || l != (Limits{}) {
		t.Errorf("limits of the judge itself: %+v, %v", l, err)
	}
	pid := sleeper(t, "free", nil)
	limited(t, pid, "67108864", "33")
	if l, err := LimitsOf(pid); err != nil || l.MemoryBytes != 64<<20 || l.Processes != 33 {
		t.Errorf("%+v, %v", l, err)
	}
	v := verdicts(LookAt([]int{pid}))
	if v["process.memory-limit"] != finding.Better || v["process.process-limit"] != finding.Better {
		t.Errorf("%v", v)
	}
}

func TestParsers(t *testing.T) {
	m := parseMemberships("12:cpu,cpuacct:/a\n5:name=systemd:/b\n0::/c:d\nbad\n1:x:relative\n")
	if want := map[string]string{"cpu": "/a", "cpuacct": "/a", "name=systemd": "/b", "": "/c:d"}; !maps.Equal(m, want) {
		t.Errorf("%v", m)
	}
	for text, want := range map[string]int64{"max\n": 0, "4096\n": 4096, "9223372036854771712\n": 0, "": 0, "-1": 0, "x": 0} {
		if got := parseLimit(text); got != want {
			t.Errorf("limit %q is %d, want %d", text, got, want)
		}
	}
	for _, tt := range []struct {
		group, dir string
		want       bool
	}{{"/a/b", "/a", true}, {"/a", "/a", true}, {"/ab", "/a", false}, {"/", "/a", false}} {
		if within(tt.group, tt.dir) != tt.want {
			t.Errorf("within(%q, %q) is not %v", tt.group, tt.dir, tt.want)
		}
	}
}

type silent struct{ sandbox.Sandbox }

func TestNoInspector(t *testing.T) {
	list, err := Look(context.Background(), silent{})
	if err != nil || len(list) != len(Probes()) || list[0].Verdict != finding.Unknown {
		t.Errorf("%v, %v", list, err)
	}
}

func TestProbesAreDocumented(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range Probes() {
		if seen[p.Name] || p.Question == "" || p.Better == "" || p.Worse == "" || p.Scope != finding.ScopeHost {
			t.Errorf("%+v", p)
		}
		seen[p.Name] = true
	}
}
