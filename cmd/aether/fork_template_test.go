package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vbauerster/mpb/v8"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
	"github.com/aethervm/aether/sandbox"
)

// fakeTemplates makes copies that run nothing: what they are given says what becomes of it.
type fakeTemplates struct {
	sandbox.Templater
	mu    sync.Mutex
	calls int
	fails func(call int) error // of ForkTemplate, from 1
	open  int
}

func (f *fakeTemplates) ForkTemplate(_ context.Context, name string, n int) ([]sandbox.Sandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if name != "py" {
		return nil, fs.ErrNotExist
	}
	if n < 1 {
		return nil, sandbox.ErrInvalid
	}
	if f.fails != nil {
		if err := f.fails(f.calls); err != nil {
			return nil, err
		}
	}
	var list []sandbox.Sandbox
	for i := range n {
		f.open++
		list = append(list, &fakeCopy{of: f, id: fmt.Sprintf("c%d-%d", f.calls, i)})
	}
	return list, nil
}

func (f *fakeTemplates) copies(ctx context.Context, name string, n int) ([]templateCopy, error) {
	return localCopies(ctx, f, name, n)
}

type fakeCopy struct {
	sandbox.Sandbox
	of *fakeTemplates
	id string
}

func (c *fakeCopy) ID() string { return c.id }

func (c *fakeCopy) Close() error {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.of.open--
	return nil
}

func (c *fakeCopy) Exec(ctx context.Context, cmd sandbox.Cmd) (sandbox.Exit, error) {
	number := strings.TrimPrefix(cmd.Env[len(cmd.Env)-1], "AETHER_FORK=")
	switch cmd.Args[0] {
	case "hang":
		<-ctx.Done()
		return sandbox.Exit{}, ctx.Err()
	case "odd": // those with an odd number fail
		if strings.Contains("13579", number[len(number)-1:]) {
			_, _ = io.WriteString(cmd.Stderr, "why\nodd one\n")
			return sandbox.Exit{Code: 3}, nil
		}
	case "much":
		_, _ = cmd.Stdout.Write(bytes.Repeat([]byte("x"), 3*maxForkOutput))
	}
	_, _ = fmt.Fprintf(cmd.Stdout, "\x1b[2Jcopy %s\n", number)
	return sandbox.Exit{}, nil
}

func TestForkTemplateAllOrNone(t *testing.T) {
	f := &fakeTemplates{}
	var out, errs bytes.Buffer
	a := &app{out: &out, err: &errs}
	results, err := a.copiesAllOrNone(t.Context(), f.copies, "py", 4, sandbox.Cmd{Args: []string{"odd"}}, maxForkOutput)
	if err != nil || len(results) != 4 || f.open != 0 || f.calls != 1 {
		t.Fatalf("%+v, %v, %d open", results, err, f.open)
	}
	if err := a.tableOfCopies(results); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 6 || !strings.Contains(lines[1], "exit 0") || !strings.HasSuffix(lines[1], "[2Jcopy 0") || strings.Contains(lines[1], "\x1b") ||
		!strings.Contains(lines[2], "exit 3") || !strings.HasSuffix(lines[2], "odd one") {
		t.Errorf("%q", lines)
	}
	if fail := (*failure)(nil); !errors.As(outcome(results), &fail) || fail.code != exitPartly || !strings.Contains(fail.message, "2 of 4") {
		t.Errorf("%v", outcome(results))
	}
	if fail := (*failure)(nil); !errors.As(outcome(results[1:2]), &fail) || fail.code != exitFailed {
		t.Errorf("%v", outcome(results[1:2]))
	}
	results, err = a.copiesAllOrNone(t.Context(), f.copies, "py", 1, sandbox.Cmd{Args: []string{"much"}}, maxForkOutput)
	if err != nil || len(results[0].Stdout) != maxForkOutput || !results[0].Truncated || outcome(results) != nil {
		t.Errorf("%d bytes, %v, %v", len(results[0].Stdout), results[0].Truncated, err)
	}
	f.fails = func(int) error { return sandbox.ErrNoSpace }
	if _, err := a.copiesAllOrNone(t.Context(), f.copies, "py", 4, sandbox.Cmd{Args: []string{"odd"}}, 1); !errors.Is(err, sandbox.ErrNoSpace) {
		t.Errorf("%v", err)
	}
}

func TestForkTemplateKeepingGoing(t *testing.T) {
	f := &fakeTemplates{fails: func(call int) error {
		if call%2 == 0 {
			return sandbox.ErrNoSpace
		}
		return nil
	}}
	a := &app{out: io.Discard, err: io.Discard}
	results, err := a.copiesKeepingGoing(t.Context(), f.copies, "py", 6, sandbox.Cmd{Args: []string{"x"}})
	if err != nil || len(results) != 6 || f.open != 0 {
		t.Fatalf("%+v, %v, %d open", results, err, f.open)
	}
	bad := 0
	for i, r := range results {
		if r.Number != i {
			t.Errorf("result %d is that of copy %d", i, r.Number)
		}
		if r.err != nil {
			bad++
		}
	}
	if fail := (*failure)(nil); bad != 3 || !errors.As(outcome(results), &fail) || fail.code != exitPartly {
		t.Errorf("%d failed, %v", bad, outcome(results))
	}
	f.fails = func(int) error { return sandbox.ErrNoSpace }
	if _, err := a.copiesKeepingGoing(t.Context(), f.copies, "py", 3, sandbox.Cmd{Args: []string{"x"}}); !errors.Is(err, sandbox.ErrNoSpace) {
		t.Errorf("none: %v", err)
	}
	if _, err := a.copiesKeepingGoing(t.Context(), f.copies, "py", 0, sandbox.Cmd{Args: []string{"x"}}); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("no copies: %v", err)
	}
}

// Ctrl-C ends the programs and removes the copies, and is what the command then says.
func TestForkTemplateInterrupted(t *testing.T) {
	for name, do := range map[string]func(context.Context, *app, *fakeTemplates) error{
		"all or none": func(ctx context.Context, a *app, f *fakeTemplates) error {
			_, err := a.copiesAllOrNone(ctx, f.copies, "py", 3, sandbox.Cmd{Args: []string{"hang"}}, 1)
			return err
		},
		"keeping going": func(ctx context.Context, a *app, f *fakeTemplates) error {
			_, err := a.copiesKeepingGoing(ctx, f.copies, "py", 30, sandbox.Cmd{Args: []string{"hang"}})
			return err
		},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		f := &fakeTemplates{}
		stop := time.AfterFunc(20*time.Millisecond, func() { cancel(signalError{signal: 2}) })
		if err := do(ctx, &app{out: io.Discard, err: io.Discard}, f); !errors.Is(err, context.Canceled) || f.open != 0 {
			t.Errorf("%s: %v, %d open", name, err, f.open)
		}
		stop.Stop()
		cancel(nil)
	}
}

func TestTemplateStages(t *testing.T) {
	a := &app{out: io.Discard, err: os.Stderr}
	told := a.tellTemplate("py", []string{"one", "two"})
	if w := told.output(); told.bar == nil && w != nil {
		t.Error("output is shown where there is no terminal")
	}
	for _, p := range []sandbox.TemplateProgress{
		{Stage: sandbox.TemplateBoot}, {Stage: sandbox.TemplateWarmUp}, {Stage: sandbox.TemplateWarmUp, Program: 1},
		{Stage: sandbox.TemplateWrite}, {Stage: sandbox.TemplateWrite, Done: 1, Total: 2}, {Stage: sandbox.TemplateWrite, Done: 2, Total: 2},
		{Stage: sandbox.TemplateFinish},
	} {
		told.progress(p)
	}
	var got []string
	for _, s := range told.close() {
		got = append(got, string(s.Stage)+" "+s.Command)
	}
	if want := []string{"boot ", "warm-up one", "warm-up two", "write ", "finish "}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if b, err := json.Marshal(madeTemplate{runtime.TemplateInfo{Name: "py"}, told.stages}); err != nil || !strings.Contains(string(b), `"name":"py"`) || !strings.Contains(string(b), `"stages":[{"stage":"boot"`) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestTrees(t *testing.T) {
	of := func(id, parent string) rest.Sandbox {
		return rest.Sandbox{SandboxInfo: runtime.SandboxInfo{ID: id, Parent: parent}}
	}
	list := []rest.Sandbox{of("a", ""), of("b", ""), of("c", "a"), of("d", "c"), of("e", "a"), of("f", "gone"), of("g", "d"), of("x", "y"), of("y", "x")}
	var got []string
	for _, row := range asTrees(list) {
		got = append(got, row.branch+row.ID)
	}
	want := []string{"a", "├─ c", "│  └─ d", "│     └─ g", "└─ e", "b", "f", "x", "└─ y"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if rows := asList(list); len(rows) != len(list) || rows[2].branch != "" {
		t.Errorf("%+v", rows)
	}
}

// On a terminal the commands' output is shown line by line, without what could steer it.
func TestTemplateShown(t *testing.T) {
	var screen bytes.Buffer
	bar := &progress{app: &app{out: io.Discard, err: io.Discard}, bars: mpb.New(mpb.WithOutput(&screen), mpb.WithAutoRefresh(), mpb.WithWidth(64))}
	bar.label.Store(new(string))
	told := &templateTold{name: "template py", warm: []string{"x"}, bar: bar}
	told.progress(sandbox.TemplateProgress{Stage: sandbox.TemplateWarmUp})
	out, errOut := told.output(), told.output()
	for _, s := range []string{"first li", "ne\nsecond \x1b[2Jline\n", strings.Repeat("y", longestLine+1), "not ended"} {
		if n, err := io.WriteString(out, s); n != len(s) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if _, err := io.WriteString(errOut, "an error\n"); err != nil {
		t.Error(err)
	}
	told.progress(sandbox.TemplateProgress{Stage: sandbox.TemplateWrite, Done: 1 << 20, Total: 4 << 20})
	if stages := told.close(); len(stages) != 2 || stages[0].Command != "x" {
		t.Errorf("%+v", stages)
	}
	shown := screen.String()
	for _, want := range []string{"aether: first line\n", "aether: second [2Jline\n", "aether: an error\n", "yyyy"} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is not shown: %q", want, shown)
		}
	}
	if strings.Contains(shown, "not ended") {
		t.Errorf("what has not ended is shown: %q", shown)
	}
}
