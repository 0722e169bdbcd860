package agentjobs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/aethervm/aether/internal/bench/agenthost"
	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/sandbox"
)

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// forked is what the agent reads of a result of the tool fork.
type forked struct {
	Kind     sandbox.SnapshotKind
	Children []struct {
		Sandbox string
		Run     *runtime.RunResult
		Error   *runtime.Error
	}
}

// attempt finds how near a step of its own comes to the root of 2; the step of number 1 is the best.
const attempt = `import os
n = int(os.environ["AETHER_FORK"])
step = [0.1, 0.001, 0.01][n]
x = 1.0
while (x + step) ** 2 <= 2: x += step
open("/work/answer", "w").write("%d %.6f\n" % (n, x))
print(abs(x * x - 2))
`

func jobBranch(ctx context.Context, w *worker) error {
	parent, err := w.box(ctx)
	if err != nil {
		return err
	}
	if err := w.write(ctx, parent, "/work/attempt.py", attempt); err != nil {
		return err
	}
	f, err := agenthost.Call[forked](ctx, w.client, "fork", args{"sandbox": parent, "count": 3, "commands": []string{"python3 /work/attempt.py"}})
	if err != nil {
		return err
	}
	best, least := -1, 0.0
	for i, child := range f.Children {
		if child.Error != nil {
			return fmt.Errorf("attempt %d: %w", i, child.Error)
		}
		if child.Run == nil || child.Run.ExitCode == nil || *child.Run.ExitCode != 0 {
			return fmt.Errorf("attempt %d failed: %+v", i, child.Run)
		}
		off, err := strconv.ParseFloat(strings.TrimSpace(child.Run.Stdout), 64)
		if err != nil {
			return err
		}
		if best < 0 || off < least {
			best, least = i, off
		}
	}
	if err := errors.Join(want("the number of attempts", len(f.Children), 3), want("the best", best, 1)); err != nil {
		return err
	}
	if _, err = w.read(ctx, args{"sandbox": parent, "path": "/work/answer"}); err == nil {
		return errors.New("an attempt has changed the parent")
	}
	for i, child := range f.Children {
		if i == best {
			continue
		}
		if _, err := w.client.Raw(ctx, "kill", args{"sandbox": child.Sandbox}); err != nil {
			return err
		}
	}
	if _, err := w.client.Raw(ctx, "kill", args{"sandbox": parent}); err != nil {
		return err
	}
	kept, err := w.must(ctx, f.Children[best].Sandbox, "cat /work/answer")
	return errors.Join(err, want("the answer kept", kept, "1 1.414000\n"))
}

func jobRollback(ctx context.Context, w *worker) error {
	box, err := w.box(ctx)
	if err != nil {
		return err
	}
	if err := w.write(ctx, box, "/work/data.txt", "precious\n"); err != nil {
		return err
	}
	saved, err := agenthost.Call[struct{ Snapshot runtime.SnapshotInfo }](ctx, w.client, "snapshot",
		args{"action": "save", "sandbox": box, "name": "before the risk"})
	if err != nil {
		return err
	}
	// The shell itself goes, so that nothing runs any more.
	if _, err := w.must(ctx, box, "rm -rf /work; python3 -c 'import os; os.unlink(os.path.realpath(\"/bin/sh\"))'"); err != nil {
		return err
	}
	if _, err := w.must(ctx, box, "true"); err == nil {
		return errors.New("the harmful change did no harm")
	}
	back, err := agenthost.Call[struct{ Sandbox runtime.SandboxInfo }](ctx, w.client, "snapshot",
		args{"action": "rollback", "sandbox": box, "snapshot": saved.Snapshot.ID})
	if err != nil {
		return err
	}
	out, err := w.must(ctx, back.Sandbox.ID, "cat /work/data.txt")
	return errors.Join(err, want("the file", out, "precious\n"))
}

func jobRanges(ctx context.Context, w *worker) error {
	box, err := w.box(ctx)
	if err != nil {
		return err
	}
	const name = "/work/large.txt"
	if _, err := w.must(ctx, box, "mkdir -p /work && seq -f 'line %06.0f of a large file' 1 10000 >"+name); err != nil {
		return err
	}
	tail, err := w.read(ctx, args{"sandbox": box, "path": name, "offset": -28})
	if err != nil {
		return err
	}
	if err := want("its end", tail.Text, "line 010000 of a large file\n"); err != nil {
		return err
	}
	text, calls, err := w.readAll(ctx, args{"sandbox": box, "path": name, "max": 65536})
	if err != nil {
		return err
	}
	if calls < 3 {
		return fmt.Errorf("%d calls read %d bytes", calls, len(text))
	}
	sum, err := w.must(ctx, box, "sha256sum <"+name)
	return errors.Join(err, want("the digest", sum, digest([]byte(text))+"  -\n"))
}

// readAll follows the offsets of results.
func (w *worker) readAll(ctx context.Context, a args) (text string, calls int, err error) {
	var b strings.Builder
	for {
		r, err := w.read(ctx, a)
		if err != nil {
			return "", calls, err
		}
		calls++
		b.WriteString(r.Text)
		if r.Next == nil {
			return b.String(), calls, nil
		}
		a["offset"] = *r.Next
	}
}

func jobLongOutput(ctx context.Context, w *worker) error {
	box, err := w.box(ctx)
	if err != nil {
		return err
	}
	res, err := w.run(ctx, box, "seq 1 40000", nil)
	if err != nil {
		return err
	}
	if !res.Truncated || res.Output == "" || len(res.Stdout) > 64<<10 {
		return fmt.Errorf("%d bytes are shown, cut: %v", len(res.Stdout), res.Truncated)
	}
	text, _, err := w.readAll(ctx, args{"output": res.Output, "max": 65536})
	if err != nil {
		return err
	}
	var whole strings.Builder
	for i := range 40000 {
		fmt.Fprintln(&whole, i+1)
	}
	if text != whole.String() {
		return fmt.Errorf("the whole is %d bytes, not the %d that were printed", len(text), whole.Len())
	}
	return nil
}

func jobState(ctx context.Context, w *worker) error {
	box, err := w.box(ctx)
	if err != nil {
		return err
	}
	if _, err := w.code(ctx, box, "import math\ntable = {n: math.factorial(n) for n in range(30)}", nil); err != nil {
		return err
	}
	failed, err := w.code(ctx, box, "table[30]", nil)
	if err != nil {
		return err
	}
	if failed.Error == nil || failed.Error.Name != "KeyError" {
		return fmt.Errorf("the exception is %+v", failed.Error)
	}
	endless, err := w.code(ctx, box, "import time\nwhile True: time.sleep(0.01)", args{"timeout_s": 1})
	if err != nil {
		return err
	}
	if !endless.TimedOut {
		return errors.New("code that does not end was not timed out")
	}
	res, err := w.code(ctx, box, "table[20]", nil)
	return errors.Join(err, want("the value", res.Value, "2432902008176640000"), want("what was lost", res.Lost, ""))
}

func jobForkState(ctx context.Context, w *worker) error {
	parent, err := w.box(ctx)
	if err != nil {
		return err
	}
	if _, err := w.code(ctx, parent, "import random\nx = ['kept']", nil); err != nil {
		return err
	}
	f, err := agenthost.Call[forked](ctx, w.client, "fork", args{"sandbox": parent, "count": 2})
	if err != nil {
		return err
	}
	if f.Kind == sandbox.SnapshotFiles {
		return cannot("its copies have the files only, no processes")
	}
	drawn := map[string]bool{}
	for i, child := range f.Children {
		res, err := w.code(ctx, child.Sandbox, fmt.Sprintf("x.append(%d)\nx", i), nil)
		if err != nil {
			return err
		}
		if err := want("the state of a copy", res.Value, fmt.Sprintf("['kept', %d]", i)); err != nil {
			return err
		}
		if res, err = w.code(ctx, child.Sandbox, "random.random()", nil); err != nil {
			return err
		}
		drawn[res.Value] = true
	}
	res, err := w.code(ctx, parent, "x", nil)
	return errors.Join(err, want("the parent's state", res.Value, "['kept']"), want("the number of different random numbers", len(drawn), 2))
}
