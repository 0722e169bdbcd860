package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// envOwner makes the test binary the owner of a lab, which has this init program, to be killed.
const envOwner = "LAB_TEST_OWNER"

func TestMain(m *testing.M) {
	if initProgram := os.Getenv(envOwner); initProgram != "" {
		image, err := openLab()
		if err == nil {
			_, err = Run(context.Background(), image, Config{Args: []string{"sleep", "1000"}, Init: initProgram})
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if builtInit != "" {
		_ = os.RemoveAll(filepath.Dir(builtInit))
	}
	os.Exit(code)
}

// builtInit is what initProgram has built.
var builtInit string

// initProgram builds what is PID 1 of the tests' labs.
var initProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "lab-test-")
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", name, "./testdata/init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the init program: %w: %s", err, out)
	}
	builtInit = name
	return name, nil
})

func openLab() (Image, error) {
	dir, err := Dir()
	if err != nil {
		return Image{}, err
	}
	return Open(dir)
}

// requireLab returns the lab and its init program.
func requireLab(t *testing.T) (image Image, initPath string) {
	t.Helper()
	image, err := openLab()
	if err == nil {
		_, err = image.emulator()
	}
	if err != nil {
		testenv.Require(t, "LAB", err.Error())
	}
	initPath, err = initProgram()
	if err != nil {
		t.Fatal(err)
	}
	return image, initPath
}

// runLab runs a program that must end by itself and returns what it wrote.
func runLab(t *testing.T, image Image, c Config) (r Result, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var out, errOut, console bytes.Buffer
	c.Stdout, c.Stderr, c.Console = &out, &errOut, &console
	r, err := Run(ctx, image, c)
	if err != nil {
		t.Fatalf("%v\nconsole:\n%s", err, console.String())
	}
	return r, out.String(), errOut.String()
}

func TestRun(t *testing.T) {
	image, initPath := requireLab(t)
	t.Parallel()
	dir := t.TempDir()
	given := filepath.Join(dir, "given")
	if err := os.MkdirAll(filepath.Join(given, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	for name, perm := range map[string]fs.FileMode{"data": 0o600, "sub/tool": 0o755} {
		data := content
		if name == "sub/tool" {
			data = []byte("#!/bin/sh\necho \"tool $1\"\n")
		}
		if err := os.WriteFile(filepath.Join(given, name), data, perm); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "out")
	const script = `
set -e
given/sub/tool works
hostname; id -u; pwd; echo "$GREETING"
test -c /dev/kvm; test -c /dev/net/tun; test -w /tmp
grep -q memory /sys/fs/cgroup/cgroup.controllers
ip -o link show lo | grep -q LOWER_UP
stat -c %a /tmp /etc
cp given/data out/back; mkdir out/d; echo x >out/d/x; ln -s d/x out/link; chmod 0640 out/d/x
sleep 1000 & # is left behind, with the output open
echo problem >/dev/stderr
exit 7`
	r, stdout, stderr := runLab(t, image, Config{Init: initPath,
		Args: []string{"sh", "-c", script}, Env: []string{"GREETING=hello"}, Out: out,
		Files: []File{{Host: given}, {Host: given + "/data", Guest: "/etc/lab-data"}},
	})
	if want := "tool works\nlab\n0\n/lab\nhello\n1777\n755\n"; stdout != want || stderr != "problem\n" || r.Code != 7 || r.Signal != 0 {
		t.Fatalf("exit %+v\nstdout %q\nstderr %q", r, stdout, stderr)
	}
	if r.Lab <= 0 || r.Boot <= 0 || r.Host < r.Lab {
		t.Errorf("times %+v", r)
	}
	if back, err := os.ReadFile(filepath.Join(out, "back")); err != nil || !bytes.Equal(back, content) {
		t.Errorf("copied back %d bytes, %v", len(back), err)
	}
	info, err := os.Stat(filepath.Join(out, "link"))
	if err != nil || info.Mode() != 0o640 || info.Size() != 2 {
		t.Errorf("link: %v, %v", info, err)
	}
}

func TestOutcomes(t *testing.T) {
	image, initPath := requireLab(t)
	t.Parallel()
	r, _, _ := runLab(t, image, Config{Init: initPath, Args: []string{"sh", "-c", "kill -TERM $$"}})
	if r.Code != -1 || r.Signal != int(unix.SIGTERM) {
		t.Errorf("killed: %+v", r)
	}
	_, err := Run(t.Context(), image, Config{Args: []string{"no-such-program"}, Init: initPath})
	if !errors.Is(err, sandbox.ErrCannotRun) || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("no such program: %v", err)
	}
	// A lab that breaks says how, by what its kernel said.
	_, err = Run(t.Context(), image, Config{Args: []string{"sh", "-c", "echo c >/proc/sysrq-trigger"}, Init: initPath})
	if err == nil || !strings.Contains(err.Error(), "before its program did") || !strings.Contains(err.Error(), "sysrq triggered crash") {
		t.Errorf("crash: %v", err)
	}
}

// TestOutput: much on both streams arrives whole and apart.
func TestOutput(t *testing.T) {
	image, initPath := requireLab(t)
	t.Parallel()
	const size = 20 << 20
	_, stdout, stderr := runLab(t, image, Config{Init: initPath, Args: []string{"sh", "-c",
		fmt.Sprintf("head -c %d /dev/zero >&2 & head -c %[1]d /dev/zero | tr '\\0' x; wait", size)}})
	if stdout != strings.Repeat("x", size) || stderr != strings.Repeat("\x00", size) {
		t.Errorf("got %d and %d bytes", len(stdout), len(stderr))
	}
}

func TestTimeout(t *testing.T) {
	image, initPath := requireLab(t)
	before := machines(t)
	expired := errors.New("expired")
	for _, limit := range []time.Duration{time.Millisecond, 500 * time.Millisecond, 5 * time.Second} {
		ctx, cancel := context.WithTimeoutCause(t.Context(), limit, expired)
		start := time.Now()
		_, err := Run(ctx, image, Config{Args: []string{"sleep", "1000"}, Init: initPath})
		cancel()
		if !errors.Is(err, expired) || time.Since(start) > limit+20*time.Second {
			t.Errorf("%v: %v after %v", limit, err, time.Since(start))
		}
		// On a busy host a lab that is young has no processor yet.
		started, old := limit > time.Millisecond, limit > time.Second
		if text := fmt.Sprint(err); started && !strings.Contains(text, "its processors: ") || old && !strings.Contains(text, "CPU 0 at ") {
			t.Errorf("%v: it does not say where the lab was: %v", limit, err)
		}
	}
	if after := machines(t); len(after) > len(before) {
		t.Errorf("left behind: %v", after)
	}
}

// TestOwnerKilled: a lab ends with its owner, which had no chance to end it.
func TestOwnerKilled(t *testing.T) {
	_, initPath := requireLab(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, delay := range []time.Duration{200 * time.Millisecond, 3 * time.Second} {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), envOwner+"="+initPath)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var children []int
		for deadline := time.Now().Add(30 * time.Second); len(children) == 0 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			children = childrenOf(t, cmd.Process.Pid)
		}
		time.Sleep(delay)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		if len(children) == 0 {
			t.Fatal("the lab did not start")
		}
		for _, pid := range children {
			for deadline := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("QEMU (%d) has survived its owner", pid)
				}
			}
		}
	}
}

// TestIcount is the promise of the deterministic mode: the same job takes the same time by the
// lab's clock, also while the host is busy, and while several labs run at once.
func TestIcount(t *testing.T) {
	image, initPath := requireLab(t)
	job := Config{Init: initPath, Icount: true, Args: []string{"python3", "-c",
		"import hashlib, time; t = time.monotonic_ns(); hashlib.sha256(b'x' * 3000000).digest(); time.sleep(0.25); print(time.monotonic_ns() - t)"}}
	const runs = 3
	var results [runs]Result
	var inside [runs]string
	one := func(i int) { results[i], inside[i], _ = runLab(t, image, job) }
	one(0)
	var wg sync.WaitGroup
	for i := 1; i < runs; i++ {
		wg.Go(func() { one(i) })
	}
	wg.Wait()
	for i := range runs {
		t.Logf("lab time %v, boot %v, measured inside %s ns; host time %v", results[i].Lab, results[i].Boot, strings.TrimSpace(inside[i]), results[i].Host)
		first, err := strconv.ParseInt(strings.TrimSpace(inside[0]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		got, err := strconv.ParseInt(strings.TrimSpace(inside[i]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got < int64(250*time.Millisecond) {
			t.Errorf("sleep of 250 ms: %d ns", got)
		}
		within(t, "measured inside", time.Duration(got), time.Duration(first))
		within(t, "lab time", results[i].Lab, results[0].Lab)
		within(t, "boot", results[i].Boot, results[0].Boot)
	}
}

// within fails the test if two times differ by more than 1 %.
func within(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if d := (got - want).Abs(); d > want/100 {
		t.Errorf("%s: %v and %v differ by %.2f %%", what, got, want, 100*float64(d)/float64(want))
	}
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]Config{
		"no program": {}, "empty program": {Args: []string{""}}, "CPUs": {Args: []string{"x"}, CPUs: MaxCPUs + 1},
		"memory": {Args: []string{"x"}, MemoryMiB: 1}, "icount with two CPUs": {Args: []string{"x"}, CPUs: 2, Icount: true},
	} {
		if _, err := Run(t.Context(), Image{}, c); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// machines lists the QEMU processes of this test.
func machines(t *testing.T) []int {
	t.Helper()
	return childrenOf(t, os.Getpid())
}

func childrenOf(t *testing.T, parent int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// pid (comm) state ppid ...
		_, rest, _ := strings.Cut(string(text), ") ")
		if field := strings.Fields(rest); len(field) > 1 && field[1] == strconv.Itoa(parent) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// alive tells whether a process runs; a zombie does not.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return !strings.HasPrefix(rest, "Z")
}
