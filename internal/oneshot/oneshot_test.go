package oneshot_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/guestagent"
	"github.com/aethervm/aether/internal/oneshot"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// onHost is a Runner whose "sandbox" is the host: programs are run as they are.
func onHost(t *testing.T) *oneshot.Runner {
	agent := testenv.Agent(t)
	return oneshot.New("host", "h", []string{"FROM_SANDBOX=1"}, func(ctx context.Context, p oneshot.Program) (int, error) {
		args := append([]string(nil), p.Args...)
		if args[0] == guestagent.Mount {
			args[0] = agent
		}
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env, cmd.Stdout, cmd.Stderr = p.Env, p.Stdout, p.Stderr
		if p.Stdin != nil {
			in, err := cmd.StdinPipe() // the run does not wait for the end of its input
			if err != nil {
				return 0, err
			}
			go func() {
				_, _ = io.Copy(in, p.Stdin)
				_ = in.Close()
			}()
		}
		cmd.WaitDelay = 100 * time.Millisecond
		err := cmd.Run()
		if cmd.ProcessState != nil {
			code := cmd.ProcessState.ExitCode()
			if code < 0 {
				code = 137
			}
			return code, nil
		}
		return 0, err
	})
}

func TestExecTellsHowTheProgramEnded(t *testing.T) {
	r := onHost(t)
	for script, want := range map[string]sandbox.Exit{
		"exit 0":        {},
		"exit 7":        {Code: 7},
		"exit 125":      {Code: 125},
		"exit 143":      {Code: 143},
		"kill -TERM $$": {Code: -1, Signal: 15},
	} {
		exit, err := r.Exec(t.Context(), sandbox.Cmd{Args: []string{"sh", "-c", script}})
		exit.Duration = 0
		if err != nil || exit != want {
			t.Errorf("%s: %+v, %v; want %+v", script, exit, err, want)
		}
	}
	if _, err := r.Exec(t.Context(), sandbox.Cmd{Args: []string{"no-such-program"}}); !errors.Is(err, sandbox.ErrCannotRun) {
		t.Errorf("missing program: %v", err)
	}
}

func TestTimeoutAndCancelLeaveNoProcess(t *testing.T) {
	r := onHost(t)
	mark := "31.4159" // an argument of sleep that nobody else has
	script := "sleep " + mark + " & (env -i setsid sh -c 'sleep " + mark + " & sleep " + mark + "' &) & sleep " + mark
	exit, err := r.Exec(t.Context(), sandbox.Cmd{Args: []string{"sh", "-c", script}, Timeout: 300 * time.Millisecond})
	if err != nil || !exit.TimedOut || exit.Signal != 9 {
		t.Errorf("timeout: %+v, %v", exit, err)
	}
	if left := sleepers(t, mark); left != 0 {
		t.Errorf("timeout: %d processes left", left)
	}
	for _, after := range []time.Duration{time.Millisecond, 300 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		if _, err := r.Exec(ctx, sandbox.Cmd{Args: []string{"sh", "-c", script}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cancelled after %v: %v", after, err)
		}
		cancel()
		if left := sleepers(t, mark); left != 0 {
			t.Errorf("cancelled after %v: %d processes left", after, left)
		}
	}
}

func sleepers(t *testing.T, mark string) (n int) {
	t.Helper()
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range cmdlines {
		if text, err := os.ReadFile(name); err == nil && string(text) == "sleep\x00"+mark+"\x00" {
			n++
		}
	}
	return n
}

func TestEnvironmentLayers(t *testing.T) {
	var out bytes.Buffer
	_, err := onHost(t).Exec(t.Context(), sandbox.Cmd{
		Args: []string{"sh", "-c", "echo $FROM_SANDBOX $X $HOME"}, Env: []string{"X=2"}, Stdout: &out,
	})
	if err != nil || out.String() != "1 2 /root\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func TestFilesRoundTripAndErrors(t *testing.T) {
	r, dir, ctx := onHost(t), t.TempDir(), t.Context()
	name := filepath.Join(dir, "f")
	content := strings.Repeat("0123456789abcdef", 100_000)
	if err := r.WriteFile(ctx, name, strings.NewReader(content), 0o640); err != nil {
		t.Fatal(err)
	}
	var back bytes.Buffer
	if err := r.ReadFile(ctx, name, &back); err != nil || back.String() != content {
		t.Errorf("read %d bytes, %v", back.Len(), err)
	}
	info, err := r.Stat(ctx, name)
	if err != nil || info.Mode != 0o640 || info.Size != int64(len(content)) {
		t.Errorf("stat: %+v, %v", info, err)
	}
	if list, err := r.ReadDir(ctx, dir); err != nil || len(list) != 1 || list[0].Name != "f" {
		t.Errorf("list: %+v, %v", list, err)
	}
	broken := errors.New("broken")
	if err := r.WriteFile(ctx, filepath.Join(dir, "half"), io.MultiReader(strings.NewReader("x"), errReader{broken}), 0o600); !errors.Is(err, broken) {
		t.Errorf("broken source: %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left of half a file: %v", entries)
	}
	if err := r.Remove(ctx, name); err != nil {
		t.Error(err)
	}
	if err := r.ReadFile(ctx, name, io.Discard); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read after remove: %v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }
