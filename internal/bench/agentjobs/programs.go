package agentjobs

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aethervm/aether/internal/bench/agenthost"
	"github.com/aethervm/aether/internal/runtime"
)

// jobs is the list, but for budgets. docs/METRICS.md counts on its being the same for every system.
func jobs() []job {
	return []job{
		{"write-and-run", "a program that was written prints what it should", jobWriteRun},
		{"fix-by-edit", "an edit that is not unique is refused, one that is mends the program, and its test passes", jobFix},
		{"install-from-mirror", "two packages, one of which needs the other, come from a mirror in the sandbox and run", jobInstall},
		{"background-poll", "a long job gives all its output over several polls, then its exit code and its file", jobBackground},
		{"drive-process", "a program answers what is written to it, and another one ends itself when it gets SIGTERM", jobDrive},
		{"branch-keep-best", "of three attempts side by side the best one is kept, and the others did not touch it", jobBranch},
		{"roll-back", "after a change that broke the system the state before it is back, and works", jobRollback},
		{"read-by-ranges", "a large file comes by ranges with the digest that it has in the sandbox; its end comes first", jobRanges},
		{"long-output", "output that a result has no room for comes whole by its handle", jobLongOutput},
		{"timeout-recover", "a program over its time is told so, none of its descendants is left, the sandbox works", jobTimeout},
		{"cancel-recover", "a call is cancelled, none of the program's descendants is left, the sandbox works", jobCancel},
		{"kept-state", "what code defines is there in later calls, also after an exception and a time-out", jobState},
		{"state-in-forks", "each copy goes on with the state, changes its own only, and draws its own random numbers", jobForkState},
		{"ephemeral", "a command, code and a read without a sandbox leave none", jobEphemeral},
		{"binary-file", "64 KiB of all byte values are in the sandbox as sent and come back so, with the mode", jobBinary},
		{"list-and-kill", "a key makes one sandbox only, list has what there is, what was killed is gone and what never was is not found", jobList},
	}
}

const primes = `import sys
n = int(sys.argv[1])
found = [p for p in range(2, n) if all(p % d for d in range(2, int(p ** 0.5) + 1))]
print(len(found), found[-1])
`

func jobWriteRun(ctx context.Context, w *worker) error {
	box, err := w.box(ctx)
	if err != nil {
		return err
	}
	if err := w.write(ctx, box, "/work/primes.py", primes); err != nil {
		return err
	}
	out, err := w.must(ctx, box, "python3 /work/primes.py 1000")
	if err != nil {
		return err
	}
	return want("what it prints", out, "168 997\n")
}

const buggy = `def add(a, b):
    return a - b

def subtract(a, b):
    return a - b

if __name__ == "__main__":
    assert add(2, 3) == 5, "add(2, 3) is %d" % add(2, 3)
    assert subtract(5, 3) == 2
    print("tests passed")
`

func jobFix(ctx context.Context, w *worker) error {
	box, err := w.box(ctx)
	if err != nil {
		return err
	}
	const name = "/work/arithmetic.py"
	if err := w.write(ctx, box, name, buggy); err != nil {
		return err
	}
	res, err := w.run(ctx, box, "python3 "+name, nil)
	if err != nil {
		return err
	}
	if res.ExitCode == nil || *res.ExitCode != 1 || !strings.Contains(res.Stderr, "add(2, 3) is -1") {
		return fmt.Errorf("the test ends with %s and says %.200q", ending(res), res.Stderr)
	}
	edit := func(old, with string) error {
		_, err := w.client.Raw(ctx, "write", args{"sandbox": box, "path": name, "edits": []args{{"old": old, "new": with}}})
		return err
	}
	if err := refused(edit("return a - b", "return a + b"), runtime.CodeConflict, "an edit of text that is there twice"); err != nil {
		return err
	}
	if err := edit("def add(a, b):\n    return a - b", "def add(a, b):\n    return a + b"); err != nil {
		return err
	}
	out, err := w.must(ctx, box, "python3 "+name)
	if err != nil {
		return err
	}
	return want("what the test prints", out, "tests passed\n")
}

func jobBackground(ctx context.Context, w *worker) error {
	box, err := w.box(ctx)
	if err != nil {
		return err
	}
	const command = `for i in 1 2 3 4 5; do echo step $i; sleep 0.4; done; echo 42 >/tmp/result; exit 7`
	res, err := w.run(ctx, box, command, args{"background": true})
	if err != nil {
		return err
	}
	var text strings.Builder
	polls, last := 0, runtime.PollResult{}
	for next := int64(0); ; next = last.Stdout.Next {
		if last, err = w.poll(ctx, args{"process": res.Process, "stdout": next, "wait_s": 30}); err != nil {
			return err
		}
		polls++
		text.WriteString(last.Stdout.Text)
		if !last.Running && last.Stdout.Text == "" {
			break
		}
	}
	if last.ExitCode == nil || polls < 3 {
		return fmt.Errorf("it ended with %v after %d polls", last.ExitCode, polls)
	}
	file, err := w.read(ctx, args{"sandbox": box, "path": "/tmp/result"})
	return errors.Join(err, want("its exit code", *last.ExitCode, 7), want("its file", file.Text, "42\n"),
		want("its output", text.String(), "step 1\nstep 2\nstep 3\nstep 4\nstep 5\n"))
}

func (w *worker) poll(ctx context.Context, a args) (runtime.PollResult, error) {
	return agenthost.Call[runtime.PollResult](ctx, w.client, "process", a)
}

// until polls a process until it has said a whole line after an offset, or has ended.
func (w *worker) until(ctx context.Context, process string, from int64) (runtime.PollResult, error) {
	for {
		p, err := w.poll(ctx, args{"process": process, "stdout": from, "wait_s": 30})
		if err != nil || !p.Running || strings.HasSuffix(p.Stdout.Text, "\n") {
			return p, err
		}
		if p.Stdout.Text != "" && !sleep(ctx, 20*time.Millisecond) { // with the part that there is, a poll does not wait
			return p, context.Cause(ctx)
		}
	}
}

// ended polls a process until it has ended.
func (w *worker) ended(ctx context.Context, process string) (runtime.PollResult, error) {
	for from := int64(0); ; {
		p, err := w.poll(ctx, args{"process": process, "stdout": from, "wait_s": 30})
		if err != nil || !p.Running {
			return p, err
		}
		from = p.Stdout.Next
	}
}

func jobDrive(ctx context.Context, w *worker) error {
	box, err := w.box(ctx)
	if err != nil {
		return err
	}
	const calculator = `exec python3 -u -c 'import sys
for line in iter(sys.stdin.readline, ""): print(eval(line))'`
	res, err := w.run(ctx, box, calculator, args{"background": true})
	if err != nil {
		return err
	}
	from := int64(0)
	for _, ask := range []struct{ question, answer string }{{"6*7", "42\n"}, {"2**40", "1099511627776\n"}} {
		if _, err := w.poll(ctx, args{"process": res.Process, "action": "write", "data": ask.question + "\n", "stdout": from}); err != nil {
			return err
		}
		p, err := w.until(ctx, res.Process, from)
		if err != nil {
			return err
		}
		if err := want("the answer", p.Stdout.Text, ask.answer); err != nil {
			return err
		}
		from = p.Stdout.Next
	}
	if _, err := w.poll(ctx, args{"process": res.Process, "action": "close"}); err != nil {
		return err
	}
	p, err := w.ended(ctx, res.Process)
	if err != nil {
		return err
	}
	if p.ExitCode == nil || *p.ExitCode != 0 {
		return fmt.Errorf("with its input closed it ended with %v", p.ExitCode)
	}
	res, err = w.run(ctx, box, `trap 'echo clean end; exit 3' TERM; echo ready; while :; do sleep 0.1; done`, args{"background": true})
	if err != nil {
		return err
	}
	if p, err = w.until(ctx, res.Process, 0); err != nil {
		return err
	}
	if _, err := w.poll(ctx, args{"process": res.Process, "action": "signal", "signal": "TERM"}); err != nil {
		return err
	}
	if p, err = w.ended(ctx, res.Process); err != nil {
		return err
	}
	if p, err = w.poll(ctx, args{"process": res.Process}); err != nil {
		return err
	}
	if p.ExitCode == nil || *p.ExitCode != 3 {
		return fmt.Errorf("after SIGTERM it ended with %v, %s", p.ExitCode, p.Signal)
	}
	return want("what it said", p.Stdout.Text, "ready\nclean end\n")
}

// left counts the programs of a name that run in a sandbox.
func (w *worker) left(ctx context.Context, box, name string) error {
	var out string
	for range 20 { // what was told to end may take a moment
		var err error
		if out, err = w.must(ctx, box, `cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^`+name+`$' || true`); err != nil {
			return err
		}
		if out == "0\n" {
			return nil
		}
		if !sleep(ctx, 250*time.Millisecond) {
			break
		}
	}
	return fmt.Errorf("%s of %s are left", strings.TrimSpace(out), name)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// family is a program with descendants, some of which have left its session.
const family = `sleep 1000 & setsid sleep 1000 & (sleep 1000 & sleep 1000) & touch /tmp/begun; sleep 1000`

func jobTimeout(ctx context.Context, w *worker) error {
	box, err := w.box(ctx)
	if err != nil {
		return err
	}
	res, err := w.run(ctx, box, family, args{"timeout_s": 1})
	if err != nil {
		return err
	}
	if !res.TimedOut {
		return fmt.Errorf("it ended with %s", ending(res))
	}
	return w.left(ctx, box, "sleep")
}

func jobCancel(ctx context.Context, w *worker) error {
	box, err := w.box(ctx)
	if err != nil {
		return err
	}
	call, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := w.run(call, box, family, nil)
		done <- err
	}()
	for {
		if _, err := w.read(ctx, args{"sandbox": box, "path": "/tmp/begun"}); err == nil {
			break
		} else if runtime.CodeOf(err) != runtime.CodeNotFound {
			return err
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return errors.New("the program has not begun")
		}
	}
	cancel()
	select {
	case err := <-done:
		if err == nil {
			return errors.New("the call was not cancelled")
		}
	case <-ctx.Done():
		return errors.New("the call that was cancelled does not return")
	}
	return w.left(ctx, box, "sleep")
}

func jobEphemeral(ctx context.Context, w *worker) error {
	res, err := w.run(ctx, "", "cat; exit 3", args{"stdin": "fed\n"})
	if err != nil {
		return err
	}
	if res.ExitCode == nil || *res.ExitCode != 3 || res.Stdout != "fed\n" {
		return fmt.Errorf("it ended with %s and printed %.80q", ending(res), res.Stdout)
	}
	code, err := w.code(ctx, "", "sum(range(10))", nil)
	if err != nil {
		return err
	}
	file, err := w.read(ctx, args{"path": "/etc/os-release"})
	if err != nil {
		return err
	}
	if !strings.Contains(file.Text, "ID=") {
		return fmt.Errorf("os-release is %.80q", file.Text)
	}
	l, err := agenthost.Call[runtime.Listing](ctx, w.client, "list", nil)
	return errors.Join(err, want("the value", code.Value, "45"), want("the number of sandboxes left", len(l.Sandboxes), 0))
}

func jobBinary(ctx context.Context, w *worker) error {
	box, err := w.box(ctx)
	if err != nil {
		return err
	}
	data := make([]byte, 64<<10)
	for i := range data {
		data[i] = byte(i ^ i>>8)
	}
	const name = "/work/data.bin"
	if _, err := w.client.Raw(ctx, "write", args{"sandbox": box, "path": name, "encoding": "base64", "mode": "751",
		"text": base64.StdEncoding.EncodeToString(data)}); err != nil {
		return err
	}
	sum, err := w.must(ctx, box, "sha256sum <"+name+" && stat -c %a "+name)
	if err != nil {
		return err
	}
	if err := want("digest and mode", sum, digest(data)+"  -\n751\n"); err != nil {
		return err
	}
	var back []byte
	for offset := int64(0); ; {
		r, err := w.read(ctx, args{"sandbox": box, "path": name, "offset": offset, "max": 20000})
		if err != nil {
			return err
		}
		part := []byte(r.Text)
		if r.Encoding == "base64" {
			if part, err = base64.StdEncoding.DecodeString(r.Text); err != nil {
				return err
			}
		}
		back = append(back, part...)
		if r.Next == nil {
			return errors.Join(want("the mode", r.Mode, "-rwxr-x--x"), want("the digest", digest(back), digest(data)))
		}
		offset = *r.Next
	}
}

func jobList(ctx context.Context, w *worker) error {
	first, err := w.create(ctx, w.client, args{"key": "the-one"})
	if err != nil {
		return err
	}
	again, err := w.create(ctx, w.client, args{"key": "the-one"})
	if err != nil {
		return err
	}
	other, err := w.box(ctx)
	if err != nil {
		return err
	}
	if err := want("the sandbox of the same key", again, first); err != nil {
		return err
	}
	names := func() (string, error) {
		l, err := agenthost.Call[runtime.Listing](ctx, w.client, "list", nil)
		var ids []string
		for _, s := range l.Sandboxes {
			ids = append(ids, s.ID)
		}
		return strings.Join(ids, " "), err
	}
	got, err := names()
	if err := errors.Join(err, want("the list", got, first+" "+other)); err != nil {
		return err
	}
	for range 2 { // once more is no error
		if _, err := w.client.Raw(ctx, "kill", args{"sandbox": first}); err != nil {
			return err
		}
	}
	if got, err = names(); err != nil {
		return err
	}
	_, gone := w.run(ctx, first, "true", nil)
	_, unknown := w.run(ctx, "sbaaaaaaaaaa", "true", nil)
	return errors.Join(want("the list", got, other), refused(gone, runtime.CodeGone, "use of what was killed"),
		refused(unknown, runtime.CodeNotFound, "use of what never was"))
}
