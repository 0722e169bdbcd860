package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/aethervm/aether/sandbox"
)

const jobCreate = "create-with-limits"

// jobs is the fixed list. docs/METRICS.md counts on its being the same for every system; a change
// of the list makes results incomparable, which [Schema] then has to say.
func jobs() []job {
	return []job{
		{jobCreate, needsCore, "a sandbox with 1 vCPU and a memory limit answers", jobMake},
		{"run-argv", needsCore, "arguments with blanks, quotes and line feeds arrive as they are", jobArgv},
		{"run-pipeline", needsCore, "the output of a shell pipeline of three programs is right", jobPipeline},
		{"exit-code", needsCore, "exit code 42 arrives", jobExitCode},
		{"stderr-apart", needsCore, "standard output and error arrive apart", jobStderr},
		{"binary-stdin", needsCore, "64 KiB of all byte values come back through cat", jobStdin},
		{"env-and-directory", needsCore, "a program sees the variable and the working directory it was given", jobEnvDir},
		{"write-read-file", needsCore, "a binary file reads back as written, with its permission bits", jobWriteRead},
		{"list-stat-remove", needsCore, "a file is listed, has its size, and is gone after its removal", jobListRemove},
		{"signal-told", "exec", "death by SIGKILL is told from an exit code", jobSignal},
		{"timeout", "exec", "a program over its time is reported so, and none of its descendants is left", jobTimeout},
		{"cancel", "exec", "a cancelled program returns at once, and none of its descendants is left", jobCancel},
		{"background-process", "exec", "a process outlives the exec that started it, is found again and ended", jobBackground},
		{"concurrent-execs", "exec", "eight programs that sleep 1 s are done within 5 s", jobConcurrent},
		{"streamed-output", "exec", "the first line arrives 1 s or more before the program ends", jobStream},
		{"large-output", "exec", "16 MiB of output arrive whole", jobLarge},
		{"path-escape-refused", "files", "neither .. nor a symbolic link reads a file of the host", jobEscape},
		{"network-off", "network", "there is no route to anywhere", jobNetworkOff},
		{"pause-resume", "pause", "a paused sandbox answers again after resume", jobPause},
		{"snapshot-restore", "snapshot", "a sandbox made from the snapshot has the file", jobSnapshot},
		{"rollback", "snapshot", "after a harmful change the state before it is back", jobRollback},
		{"stats", "stats", "memory in use and the number of processes are told", jobStats},
	}
}

// unlike is the error of a job whose result is not what it should be.
func unlike(what string, got, want any) error {
	return fmt.Errorf("%s is %.80q, not %.80q", what, fmt.Sprint(got), fmt.Sprint(want))
}

func same[T comparable](what string, got, want T) error {
	if got != want {
		return unlike(what, got, want)
	}
	return nil
}

func jobMake(ctx context.Context, a *agent) error {
	a.discard()
	sb, err := a.s.create(ctx)
	if err != nil {
		return err
	}
	a.sb = sb
	_, err = run(ctx, sb, "true")
	return err
}

func jobArgv(ctx context.Context, a *agent) error {
	const odd = "a b\t'c' \"d\"\n$HOME * \\"
	out, err := run(ctx, a.sb, "printf", "%s|%s", odd, "")
	if err != nil {
		return err
	}
	return same("output", out, odd+"|")
}

func jobPipeline(ctx context.Context, a *agent) error {
	out, err := run(ctx, a.sb, "sh", "-c", "seq 100 | grep 7 | wc -l")
	if err != nil {
		return err
	}
	return same("output", strings.TrimSpace(out), "19")
}

func jobExitCode(ctx context.Context, a *agent) error {
	exit, err := a.sb.Exec(ctx, sandbox.Cmd{Args: []string{"sh", "-c", "exit 42"}})
	if err != nil {
		return err
	}
	return same("end", exit.String(), "exit 42")
}

func jobStderr(ctx context.Context, a *agent) error {
	var stdout, stderr bytes.Buffer
	_, err := a.sb.Exec(ctx, sandbox.Cmd{
		Args:   []string{"sh", "-c", "echo to-out; echo to-err >&2"},
		Stdout: &stdout, Stderr: &stderr,
	})
	if err != nil {
		return err
	}
	return errors.Join(
		same("standard output", stdout.String(), "to-out\n"),
		same("standard error", stderr.String(), "to-err\n"))
}

// allBytes is n bytes in which every value occurs.
func allBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8)
	}
	return b
}

func jobStdin(ctx context.Context, a *agent) error {
	data := allBytes(64 << 10)
	out, err := runCmd(ctx, a.sb, sandbox.Cmd{Args: []string{"cat"}, Stdin: bytes.NewReader(data)})
	if err != nil {
		return err
	}
	if out != string(data) {
		return fmt.Errorf("%d bytes came back otherwise than the %d sent", len(out), len(data))
	}
	return nil
}

func jobEnvDir(ctx context.Context, a *agent) error {
	out, err := runCmd(ctx, a.sb, sandbox.Cmd{
		Args: []string{"sh", "-c", `printf '%s in ' "$AGENT_TASK"; pwd`},
		Env:  []string{"AGENT_TASK=x=y z"}, Dir: "/usr",
	})
	if err != nil {
		return err
	}
	return same("output", out, "x=y z in /usr\n")
}

func jobWriteRead(ctx context.Context, a *agent) error {
	const name = "/var/tmp/agent-file"
	data := allBytes(64 << 10)
	if err := a.sb.WriteFile(ctx, name, bytes.NewReader(data), 0o640); err != nil {
		return err
	}
	got, err := readAll(ctx, a.sb, name)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, data) {
		return fmt.Errorf("%d bytes were read otherwise than the %d written", len(got), len(data))
	}
	info, err := a.sb.Stat(ctx, name)
	if err != nil {
		return err
	}
	return same("mode", info.Mode.Perm(), 0o640)
}

func jobListRemove(ctx context.Context, a *agent) error {
	const dir, name = "/var/tmp/agent-dir", "/var/tmp/agent-dir/a file"
	if _, err := run(ctx, a.sb, "mkdir", dir); err != nil {
		return err
	}
	if err := a.sb.WriteFile(ctx, name, strings.NewReader("12345"), 0o600); err != nil {
		return err
	}
	entries, err := a.sb.ReadDir(ctx, dir)
	if err != nil {
		return err
	}
	if len(entries) != 1 || entries[0].Name != "a file" || entries[0].Size != 5 {
		return fmt.Errorf("the list is %.200v, not one file of 5 bytes", entries)
	}
	info, err := a.sb.Stat(ctx, name)
	if err != nil {
		return err
	}
	if err := same("size", info.Size, 5); err != nil {
		return err
	}
	if err := a.sb.Remove(ctx, name); err != nil {
		return err
	}
	if _, err := a.sb.Stat(ctx, name); !errors.Is(err, fs.ErrNotExist) {
		return unlike("the result of stat after removal", err, fs.ErrNotExist)
	}
	return nil
}

func jobEscape(ctx context.Context, a *agent) error {
	// A file of the host that guest code must not come by.
	secret, remove, err := a.s.scratch.secret()
	if err != nil {
		return err
	}
	defer remove()
	const link = "/var/tmp/agent-link"
	if _, err := run(ctx, a.sb, "ln", "-sfn", secret, link); err != nil {
		return err
	}
	for _, name := range []string{link, "/var/tmp/../../../../../../.." + secret, secret} {
		if content, err := readAll(ctx, a.sb, name); err == nil {
			return fmt.Errorf("%s was read: %d bytes", name, len(content))
		}
	}
	return nil
}
