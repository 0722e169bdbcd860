package runtime

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	drivers "github.com/aethervm/aether/internal/driver/all"
	"github.com/aethervm/aether/internal/driver/all/drivertest"
	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// openReal opens a runtime on a system of this host.
func openReal(t testing.TB, system, need string) *Session {
	t.Helper()
	testenv.Image(t)
	list := []sandbox.Driver{drivertest.Real(t, system, need)}
	store, err := image.Default()
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(t.Context(), Config{StateDir: t.TempDir(), Drivers: list, Images: StoreImages(store)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return (&world{Runtime: r}).session(t, SessionSpec{})
}

// TestRealSystem does what an agent does, on the systems of this host.
func TestRealSystem(t *testing.T) {
	for system, need := range map[string]string{"gvisor": "GVISOR", "docker": "DOCKER", "qemu-kvm": "QEMU", "aethervm": "REAL_KVM"} {
		t.Run(system, func(t *testing.T) {
			s := openReal(t, system, need)
			box := s.mustCreate(t, SandboxSpec{})
			if res := s.mustRun(t, box, "echo out; echo err >&2; exit 3"); res.Stdout != "out\n" || res.Stderr != "err\n" || *res.ExitCode != 3 {
				t.Errorf("%+v", res)
			}
			if _, err := s.Write(t.Context(), WriteRequest{Sandbox: box, Path: "/work/a/m.py", Text: "def f():\n    return 1\n"}); err != nil {
				t.Fatal(err)
			}
			if res, err := s.Write(t.Context(), WriteRequest{Sandbox: box, Path: "/work/a/m.py", Edits: []Edit{{Old: "return 1", New: "return 42"}}}); err != nil || res.Line != 2 {
				t.Fatalf("%+v, %v", res, err)
			}
			code := func(id, code string) CodeResult {
				t.Helper()
				res, err := s.Code(t.Context(), CodeRequest{Sandbox: id, Code: code, Timeout: time.Minute})
				if err != nil {
					t.Fatal(err)
				}
				return res
			}
			if res := code(box, "import sys; sys.path.append('/work/a')\nimport m\nprint('loaded')\nm.f()"); res.Value != "42" || res.Stdout != "loaded\n" || !res.Fresh {
				t.Errorf("%+v", res)
			}
			if res := code(box, "m.f() / 0"); res.Error == nil || res.Error.Name != "ZeroDivisionError" || res.Fresh {
				t.Errorf("%+v", res)
			}
			read, err := s.Read(t.Context(), ReadRequest{Sandbox: box, Path: "/work/a/m.py", Offset: -10})
			if err != nil || read.Text != "return 42\n" || read.Next != nil {
				t.Errorf("%+v, %v", read, err)
			}
			if list, err := s.Read(t.Context(), ReadRequest{Sandbox: box, Path: "/bin", Max: 5}); err != nil || !list.Dir || len(list.Entries) != 5 || *list.Next != 5 {
				t.Errorf("%+v, %v", list, err)
			}
			_, err = s.Read(t.Context(), ReadRequest{Sandbox: box, Path: "/work/none"})
			want(t, "missing", err, CodeNotFound)
			if res := s.mustRun(t, box, "seq 1 20000"); !res.Truncated || !strings.HasSuffix(res.Stdout, "\n20000\n") {
				t.Errorf("%d bytes, %v", len(res.Stdout), res.Truncated)
			}
			realProcesses(t, s, box)
			realForks(t, s, box, code)
			realPause(t, s, code)
			if err := s.Kill(t.Context(), box); err != nil {
				t.Error(err)
			}
			_, err = s.Run(t.Context(), RunRequest{Sandbox: box, Shell: "true"})
			want(t, "killed", err, CodeGone)
		})
	}
}

func realProcesses(t *testing.T, s *Session, box string) {
	// The shell's child gets the signal too.
	p := s.mustStart(t, box, `trap "echo got it; exit 5" TERM; echo ready; sleep 1000 & wait`)
	if res, err := s.Poll(t.Context(), PollRequest{Process: p, Wait: time.Minute}); err != nil || res.Stdout.Text != "ready\n" {
		t.Fatalf("%+v, %v", res, err)
	}
	if _, err := s.Signal(t.Context(), SignalRequest{Process: p, Signal: "TERM"}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		res, err := s.Poll(t.Context(), PollRequest{Process: p, Stdout: 1000, Wait: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if !res.Running {
			break
		}
	}
	res, err := s.Poll(t.Context(), PollRequest{Process: p})
	if err != nil || res.Running || res.ExitCode == nil || *res.ExitCode != 5 || !strings.Contains(res.Stdout.Text, "got it") {
		t.Errorf("%+v, %v", res, err)
	}
	p = s.mustStart(t, box, "cat")
	if _, err := s.WriteStdin(t.Context(), StdinRequest{Process: p, Data: "fed\n"}); err != nil {
		t.Fatal(err)
	}
	if res, err := s.Poll(t.Context(), PollRequest{Process: p, Wait: time.Minute}); err != nil || res.Stdout.Text != "fed\n" || !res.Running {
		t.Errorf("%+v, %v", res, err)
	}
	if info, err := s.Signal(t.Context(), SignalRequest{Process: p, Signal: "KILL"}); err != nil || info.Running || info.Signal != "SIGKILL" {
		t.Errorf("%+v, %v", info, err)
	}
}

// realPause has a sandbox paused for idleness, with an interpreter in it.
func realPause(t *testing.T, s *Session, code func(id, code string) CodeResult) {
	box := s.mustCreate(t, SandboxSpec{Idle: IdlePolicy{Pause: time.Second, Kill: time.Hour}})
	code(box, "x = 'kept'")
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		info, err := s.Inspect(t.Context(), box)
		if err != nil {
			t.Fatal(err)
		}
		if info.State == StatePaused {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it is not paused")
		}
	}
	if res := code(box, "x"); res.Value != "'kept'" || res.Fresh {
		t.Errorf("after a pause: %+v", res)
	}
}

func realForks(t *testing.T, s *Session, box string, code func(id, code string) CodeResult) {
	code(box, "import random; x = 'kept'")
	fork, err := s.Fork(t.Context(), ForkRequest{Sandbox: box, Runs: []RunRequest{{Shell: "cat /work/a/m.py; echo $AETHER_FORK"}, {Shell: "cat /work/a/m.py"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("fork of two, %s: %d ms", fork.Kind, fork.DurationMS)
	drawn := map[string]bool{}
	for i, c := range fork.Children {
		if c.Error != nil || !strings.Contains(c.Run.Stdout, "return 42") {
			t.Errorf("child %d: %+v, %+v, %v", i, c, c.Run, c.Error)
		}
		if fork.Kind == sandbox.SnapshotFull {
			if res := code(c.Sandbox.ID, "x"); res.Value != "'kept'" || res.Fresh || res.Lost != "" {
				t.Errorf("child %d: %+v", i, res)
			}
			drawn[code(c.Sandbox.ID, "random.random()").Value] = true
		}
	}
	if fork.Kind == sandbox.SnapshotFull && len(drawn) != 2 {
		t.Errorf("they drew the same numbers: %v", drawn)
	}
	if res := code(box, "x"); res.Value != "'kept'" {
		t.Errorf("the parent: %+v", res)
	}
}

// TestInterpreters runs the kept interpreters on this host, without a sandbox.
func TestInterpreters(t *testing.T) {
	for _, c := range []struct {
		name                                                 Language
		program                                              string
		define, use, value, print, fail, failName, loop, die string
		broken                                               string
	}{
		{Python, "python3", "x = [1, 2]", "x", "[1, 2]", "import os, sys\nprint('a')\nos.system('echo b')\nprint('c', file=sys.stderr)",
			"1/0", "ZeroDivisionError", "import time\nwhile True: time.sleep(0.01)", "import os\nos._exit(3)", "1 +"},
		{Node, "node", "const x = await Promise.resolve([1, 2])", "x", "[ 1, 2 ]", "console.log('a'); require('child_process').spawnSync('echo', ['b'], {stdio: 'inherit'}); console.error('c')",
			"null.f()", "TypeError", "for (;;);", "process.exit(3)", "1 +"},
	} {
		test := func(t *testing.T, connects bool) {
			if _, err := exec.LookPath(c.program); err != nil {
				testenv.Require(t, strings.ToUpper(c.program), err.Error())
			}
			b, u := hostBox(t)
			if connects {
				u.raw = hostConnector{u.sb.(*hostSandbox)}
			}
			lang, err := c.name.def("code")
			if err != nil {
				t.Fatal(err)
			}
			code := func(code string, change ...func(*CodeRequest)) CodeResult {
				t.Helper()
				req := CodeRequest{Language: c.name, Code: code, Timeout: time.Minute}
				for _, f := range change {
					f(&req)
				}
				res, err := b.code(u, lang, req)
				if err != nil {
					t.Fatal(err)
				}
				return res
			}
			soon := func(r *CodeRequest) { r.Timeout = 300 * time.Millisecond }
			if res := code(c.define); !res.Fresh || res.Error != nil || res.Lost != "" {
				t.Errorf("define: %+v", res)
			}
			if res := code(c.use); res.Fresh || res.Value != c.value {
				t.Errorf("use: %+v", res)
			}
			if res := code(c.print); res.Stdout != "a\nb\n" || res.Stderr != "c\n" || res.Error != nil {
				t.Errorf("print: %+v", res)
			}
			if res := code(c.fail); res.Error == nil || res.Error.Name != c.failName || !strings.Contains(res.Error.Traceback, "cell") {
				t.Errorf("fail: %+v", res)
			}
			if res := code(c.broken); res.Error == nil || res.Error.Name != "SyntaxError" {
				t.Errorf("broken: %+v", res)
			}
			if res := code(c.loop, soon); !res.TimedOut || res.Error == nil || res.Lost != "" {
				t.Errorf("loop: %+v", res)
			}
			if res := code(c.use); res.Value != c.value {
				t.Errorf("use after a time-out: %+v", res)
			}
			if res := code(c.die); !strings.Contains(res.Lost, "exit code 3") || res.Error == nil {
				t.Errorf("die: %+v", res)
			}
			if res := code(c.use); !res.Fresh || res.Error == nil || res.Error.Name != map[Language]string{Python: "NameError", Node: "ReferenceError"}[c.name] {
				t.Errorf("use after death: %+v", res)
			}
			code(c.define)
			if res := code(c.use, func(r *CodeRequest) { r.Restart = true }); !res.Fresh || res.Value != "" {
				t.Errorf("restart: %+v", res)
			}
			code(c.define)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			gone := *u
			gone.ctx = ctx
			if res, err := b.code(&gone, lang, CodeRequest{Language: c.name, Code: c.loop}); err == nil {
				t.Errorf("a caller that has gone: %+v", res)
			}
			if res := code(c.use); c.name == Python && res.Value != c.value {
				t.Errorf("use after an interrupt: %+v", res)
			}
			if err := u.sb.(*hostSandbox).leave(c.name); err != nil {
				t.Fatal(err)
			}
			if res := code(c.define); !res.Fresh || res.Lost != "the interpreter was gone" {
				t.Errorf("the socket is gone: %+v", res)
			}
		}
		t.Run(string(c.name), func(t *testing.T) { test(t, false) })
		t.Run(string(c.name)+" directly", func(t *testing.T) { test(t, true) })
	}
}

// hostBox is a box whose sandbox runs programs on this host, with the sockets of interpreters in a
// directory of the test's own.
func hostBox(t *testing.T) (*box, *use) {
	t.Helper()
	w := open(t, nil)
	dir, err := os.MkdirTemp("/tmp", "ae-") //nolint:usetesting // t.TempDir is too long for socket names
	if err != nil {
		t.Fatal(err)
	}
	h := &hostSandbox{dir: dir}
	t.Cleanup(func() {
		h.end(t)
		_ = os.RemoveAll(dir)
	})
	b := &box{s: w.session(t, SessionSpec{}), id: "sbhost", sb: h, driver: w.d, interps: map[Language]*interpreter{}}
	return b, &use{b: b, sb: h, ctx: t.Context()}
}

type hostSandbox struct {
	sandbox.Sandbox
	dir string
}

// marked is in the environment of what the test starts, for its clean-up.
const marked = "AETHER_TEST_INTERPRETER="

func (h *hostSandbox) Exec(ctx context.Context, c sandbox.Cmd) (sandbox.Exit, error) {
	args := append([]string{}, c.Args...)
	last := len(args) - 1
	args[last] = strings.Replace(args[last], interpreterDir, filepath.Join(h.dir, "s"), 1)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	cmd.Env = append(os.Environ(), marked+h.dir)
	err := cmd.Run()
	if ee := (*exec.ExitError)(nil); errors.As(err, &ee) {
		return sandbox.Exit{Code: ee.ExitCode()}, nil
	}
	return sandbox.Exit{}, err
}

// leave removes the socket of an interpreter.
func (h *hostSandbox) leave(name Language) error {
	return os.Remove(strings.Replace(name.socket(), interpreterDir, filepath.Join(h.dir, "s"), 1))
}

// hostConnector is a hostSandbox that connects to sockets.
type hostConnector struct{ *hostSandbox }

func (h hostConnector) Connect(ctx context.Context, name string, in io.Reader, out io.Writer) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", strings.Replace(name, interpreterDir, filepath.Join(h.dir, "s"), 1))
	if errors.Is(err, syscall.ECONNREFUSED) {
		return sandbox.ErrRefused
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	go func() { _, _ = io.Copy(conn, in) }()
	_, err = io.Copy(out, conn)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// end kills what the test has started and that is still there.
func (h *hostSandbox) end(t *testing.T) {
	found, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Error(err)
	}
	for _, name := range found {
		env, err := os.ReadFile(name)
		if err != nil || !strings.Contains(string(env), marked+h.dir) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// TestPoolAfterKill kills a process that has sandboxes ready, and has the next one find nothing of them.
func TestPoolAfterKill(t *testing.T) {
	const inChild = "AETHER_TEST_POOL"
	if dir, run, ok := strings.Cut(os.Getenv(inChild), ":"); ok {
		_ = os.RemoveAll(os.Getenv("AETHER_RUN")) // TestMain has made one, and will not come to remove it
		t.Setenv("AETHER_RUN", run)
		fillPool(t, dir)
		return
	}
	s := openReal(t, "gvisor", "GVISOR") // it skips, and sets the run directory
	dir := t.TempDir()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPoolAfterKill$", "-test.v")
	child.Env = append(os.Environ(), inChild+"="+dir+":"+os.Getenv("AETHER_RUN"))
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	ready := ""
	for lines, is := bufio.NewScanner(out), false; !is && lines.Scan(); {
		ready, is = strings.CutPrefix(lines.Text(), "ready ")
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	if n, err := strconv.Atoi(ready); err != nil || n < 1 {
		t.Fatalf("%q were ready: %v", ready, err)
	}
	r, err := Open(t.Context(), Config{StateDir: dir, Drivers: s.r.cfg.Drivers, Images: s.r.cfg.Images})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	found := r.Recovered()
	// Those that were ready belonged to nobody.
	if n, _ := strconv.Atoi(ready); found.Swept["gvisor"] < n || len(found.Orphans) != 0 {
		t.Errorf("%s were ready; %+v", ready, found)
	}
	if n, err := s.r.cfg.Drivers[0].Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("%d are left: %v", n, err)
	}
}

// fillPool has sandboxes ready until the process is killed.
func fillPool(t *testing.T, dir string) {
	var list []sandbox.Driver
	for _, d := range drivers.Drivers(drivers.Options{}) {
		if d.System() == "gvisor" {
			list = append(list, d)
		}
	}
	store, err := image.Default()
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(t.Context(), Config{StateDir: dir, Drivers: list, Images: StoreImages(store), Pool: PoolConfig{Sandboxes: 2}})
	if err != nil {
		t.Fatal(err)
	}
	s := (&world{Runtime: r}).session(t, SessionSpec{})
	for range 4 {
		s.mustRun(t, "", "true")
	}
	for deadline := time.Now().Add(time.Minute); r.Pool().Ready < 1 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Printf("ready %d\n", r.Pool().Ready)
	time.Sleep(time.Minute)
}
