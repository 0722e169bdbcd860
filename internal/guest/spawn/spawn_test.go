package spawn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guest/supervise"
	"github.com/aethervm/aether/internal/lease"
)

// modeEnv makes the test binary play PID 1, a supervisor, a client or a killer, each in a process of
// its own. They share a network namespace of their own, so that the socket's name is theirs.
const modeEnv = "AETHER_SPAWN_TEST"

func TestMain(m *testing.M) {
	switch os.Getenv(modeEnv) {
	case "":
		os.Exit(m.Run())
	case "pid1":
		os.Exit(playPID1())
	case "supervisor":
		if err := Supervise(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "client":
		if err := os.Unsetenv(modeEnv); err != nil {
			os.Exit(99)
		}
		code, err := Run(os.Args[2:]) // after "exec", which supervise.Kill looks for
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 99
		}
		os.Exit(code)
	}
}

// playPID1 serves until its standard input ends.
func playPID1() int {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// What the tests' own parent has left open is not to be found in programs.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	children := make(chan os.Signal, 16)
	signal.Notify(children, unix.SIGCHLD)
	l, err := Listen()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go l.Serve([]string{os.Args[0]}, []string{modeEnv + "=supervisor"})
	go func() {
		for range children {
			Reap()
		}
	}()
	fmt.Println("listening")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// endNamespace kills all processes in a network namespace, as a container's end does.
func endNamespace(ns string) {
	for range 3 { // a process that was being started may have been missed
		links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
		for _, link := range links {
			if found, err := os.Readlink(link); err == nil && found == ns {
				if pid, err := strconv.Atoi(strings.Split(link, "/")[2]); err == nil {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
	}
}

// startPID1 starts one and returns how to enter its namespace.
func startPID1(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), modeEnv+"=pid1")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("needs root for a network namespace")
		}
		t.Fatal(err)
	}
	name := "/proc/" + itoa(cmd.Process.Pid) + "/ns/net"
	ns, err := os.Readlink(name)
	if own, ownErr := os.Readlink("/proc/self/ns/net"); errors.Join(err, ownErr) != nil || ns == own {
		t.Fatalf("PID 1 has no namespace of its own: %v, %v", err, ownErr)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("pid 1: %v", err)
		}
		endNamespace(ns)
	})
	ready := make([]byte, len("listening\n"))
	if _, err := io.ReadFull(out, ready); err != nil {
		t.Fatal(err)
	}
	return name
}

func itoa(n int) string { return strconv.Itoa(n) }

func clientCommand(ns, id string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--net=" + ns, os.Args[0], "exec", "--id", id}, args...)...)
	cmd.Env = append(os.Environ(), modeEnv+"=client", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// client runs a program and returns once its client has ended.
func client(t *testing.T, ns string, stdin io.Reader, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	id := lease.NewID()
	defer supervise.TakeStatus(id)
	cmd := clientCommand(ns, id, args...)
	cmd.Env = append(cmd.Env, env...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

func TestProgramRunsBelowPID1(t *testing.T) {
	if _, err := exec.LookPath("nsenter"); err != nil {
		t.Skip("needs nsenter")
	}
	ns := startPID1(t)
	pid1 := strings.Split(ns, "/")[2]
	big := strings.Repeat("x", 100<<10)
	const grandparent = "grep PPid: /proc/$PPID/status | tr -dc '[0-9]\\n'"
	for name, c := range map[string]struct {
		stdin, script, stdout, stderr string
		code                          int
	}{
		"streams":     {"in", "cat; echo err >&2", "in", "err\n", 0},
		"ancestor":    {"", grandparent, pid1 + "\n", "", 0},
		"exit code":   {"", "exit 7", "", "", 7},
		"signal":      {"", "kill -9 $$", "", "", 137},
		"environment": {"", `printf %s "$BIG" | wc -c`, "102400\n", "", 0},
		"descriptors": {"", `for f in /proc/$$/fd/*; do n=${f##*/}; [ $n -le 2 ] || [ ! -e $f ] || readlink $f; done`, "", "", 0},
		"directory":   {"", "pwd", "/\n", "", 0},
		"signals":     {"", "grep SigIgn: /proc/self/status", ignoredSignals(t), "", 0},
	} {
		// Twice: the second is a supervisor's second.
		for range 2 {
			out, errOut, code := client(t, ns, strings.NewReader(c.stdin), []string{"BIG=" + big}, "--", "/bin/sh", "-c", c.script)
			if out != c.stdout || errOut != c.stderr || code != c.code {
				t.Errorf("%s: %q, %q, %d", name, out, errOut, code)
			}
		}
	}
	if out, _, _ := client(t, ns, nil, nil, "--dir", "/usr", "--", "pwd"); out != "/usr\n" {
		t.Errorf("in /usr: %q", out)
	}
	if _, _, code := client(t, ns, nil, nil, "--", "/no/such/program"); code != supervise.CodeCannotRun {
		t.Errorf("a program that is not there: %d", code)
	}
	if _, _, code := client(t, ns, nil, nil, "--timeout", "50ms", "--", "sleep", "60"); code != 128+9 {
		t.Errorf("a program over its time: %d", code)
	}
	if _, errOut, code := client(t, ns, nil, nil, "--odd", "x", "--", "true"); code != 99 || !strings.Contains(errOut, "did not run") {
		t.Errorf("an option that is not there: %q, %d", errOut, code)
	}
}

// ignoredSignals is the line of /proc/self/status that a program shall see too: whoever runs the tests
// may ignore some signals, which is inherited; nothing in between shall add to them.
func ignoredSignals(t *testing.T) string {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "SigIgn:") {
			return line
		}
	}
	t.Fatal("no SigIgn in /proc/self/status")
	return ""
}

// TestSupervisorStays checks that a supervisor serves again, unless its program has left something.
func TestSupervisorStays(t *testing.T) {
	if _, err := exec.LookPath("nsenter"); err != nil {
		t.Skip("needs nsenter")
	}
	ns := startPID1(t)
	pid1 := strings.Split(ns, "/")[2]
	supervisor := func() string {
		out, _, _ := client(t, ns, nil, nil, "--", "sh", "-c", "echo $PPID")
		return strings.TrimSpace(out)
	}
	first := supervisor()
	same := 0
	const runs = 100
	for range runs {
		if supervisor() == first {
			same++
		} else {
			first = supervisor()
		}
	}
	if same < runs/2 { // on a busy host a run may be long
		t.Errorf("%d times of %d the same supervisor", same, runs)
	}
	out, _, code := client(t, ns, nil, nil, "--", "sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!")
	job := strings.TrimSpace(out)
	if code != 0 {
		t.Fatalf("start a job: %d", code)
	}
	pid, err := strconv.Atoi(job)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(pid, unix.SIGKILL)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		parent, err := exec.Command("ps", "-o", "ppid=", job).Output()
		if err != nil {
			t.Fatalf("the job is gone: %v", err)
		}
		if strings.TrimSpace(string(parent)) == pid1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the job's parent is %q, not PID 1, %s", parent, pid1)
		}
	}
	if other := supervisor(); other == first || other == "" {
		t.Errorf("supervisor %s, then %q after a program that has left a job", first, other)
	}
}

// TestKill ends programs by their ID, with what they have started, and checks that the next one is
// not hit.
func TestKill(t *testing.T) {
	if _, err := exec.LookPath("nsenter"); err != nil {
		t.Skip("needs nsenter")
	}
	ns := startPID1(t)
	for range 5 {
		id := lease.NewID()
		cmd := clientCommand(ns, id, "--", "sh", "-c", "setsid sleep 3600 & echo $!; wait")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 16)
		n, err := out.Read(line)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
		if err != nil {
			t.Fatal(err)
		}
		if err := supervise.Kill(id); err != nil {
			t.Error(err)
		}
		if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("a grandchild is still there: %v", err)
		}
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 128+9 {
			t.Errorf("killed: %v", cmd.ProcessState)
		}
		if s, ok := supervise.TakeStatus(id); !ok || s.Signal != 9 {
			t.Errorf("status: %+v, %v", s, ok)
		}
		if _, _, code := client(t, ns, nil, nil, "--", "sleep", "0.05"); code != 0 {
			t.Errorf("the next program: %d", code)
		}
	}
	// Killed before it is started.
	id := lease.NewID()
	if err := supervise.Kill(id); err != nil {
		t.Fatal(err)
	}
	if err := clientCommand(ns, id, "--", "sleep", "3600").Run(); err == nil {
		t.Error("a program ran that had been killed before")
	}
	supervise.TakeStatus(id)
}

// TestClientKilled checks that a program goes on without its client, as in a restored sandbox.
func TestClientKilled(t *testing.T) {
	if _, err := exec.LookPath("nsenter"); err != nil {
		t.Skip("needs nsenter")
	}
	ns := startPID1(t)
	name := filepath.Join(t.TempDir(), "ended")
	cmd := clientCommand(ns, lease.NewID(), "--", "sh", "-c", "echo; sleep 0.3; touch "+name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(name); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the program has ended with its client")
		}
	}
}

func TestAtOnce(t *testing.T) {
	if _, err := exec.LookPath("nsenter"); err != nil {
		t.Skip("needs nsenter")
	}
	ns := startPID1(t)
	results := make(chan string, 20)
	for i := range cap(results) {
		go func() {
			out, _, code := client(t, ns, nil, nil, "--", "/bin/sh", "-c", "echo "+itoa(i)+"; exit "+itoa(i))
			results <- strings.TrimSpace(out) + " " + itoa(code)
		}()
	}
	seen := map[string]bool{}
	for range cap(results) {
		seen[<-results] = true
	}
	for i := range cap(results) {
		if want := itoa(i) + " " + itoa(i); !seen[want] {
			t.Errorf("no client got %q: %v", want, seen)
		}
	}
}

// TestReceiveRefuses feeds what a client must not send.
func TestReceiveRefuses(t *testing.T) {
	good, _ := request([]string{"--id", "a", "--", "true"}, nil)
	streams := unix.UnixRights(0, 1, 2)
	for name, c := range map[string]struct{ sent, oob []byte }{
		"nothing":    {nil, nil},
		"no streams": {good, nil},
		"too few":    {good, unix.UnixRights(0)},
		"cut off":    {good, streams},
		"too large":  {binary.BigEndian.AppendUint32(nil, maxBody+1), streams},
		"no args":    {make([]byte, headSize), streams},
	} {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		here := os.NewFile(uintptr(fds[0]), "here")
		if len(c.sent) > 0 {
			if err := unix.Sendmsg(fds[1], c.sent, c.oob, nil, 0); err != nil {
				t.Fatal(err)
			}
		}
		_ = unix.Close(fds[1])
		if o, err := receive(here); err == nil {
			t.Errorf("%s: received %+v", name, o)
		}
		_ = here.Close()
	}
}

func TestRequest(t *testing.T) {
	args, env := []string{"--id", "a", "--", "prog", "", "x\xffy"}, []string{"A=b", "C="}
	head, body := request(args, env)
	if n := binary.BigEndian.Uint32(head); int(n) != len(body) {
		t.Errorf("a body of %d bytes, it says %d", len(body), n)
	}
	o, err := parseRequest(binary.BigEndian.Uint32(head[4:]), string(body))
	if err != nil || o.ID != "a" || !slices.Equal(o.Args, args[3:]) || !slices.Equal(o.Env, env) {
		t.Errorf("%+v, %v", o, err)
	}
}

func FuzzParseRequest(f *testing.F) {
	_, body := request([]string{"--id", "a", "--timeout", "1s", "--dir", "/", "--", "/bin/true"}, []string{"A=b"})
	f.Add(uint32(8), string(body))
	f.Add(uint32(9), "")
	f.Fuzz(func(t *testing.T, nArgs uint32, body string) {
		if o, err := parseRequest(nArgs, body); err == nil && (o.ID == "" || len(o.Args) == 0) {
			t.Errorf("%d, %q: %+v", nArgs, body, o)
		}
	})
}
