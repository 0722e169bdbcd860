package runtime

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

func TestRunForms(t *testing.T) {
	noLeaks(t)
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{Env: []string{"A=1"}})
	var out, progress bytes.Buffer
	for name, c := range map[string]struct {
		req  RunRequest
		want string
	}{
		"argv":     {RunRequest{Args: []string{"echo", "x"}}, "x\n"},
		"input":    {RunRequest{Shell: "cat", Input: "in"}, "in"},
		"stdin":    {RunRequest{Shell: "cat", Stdin: strings.NewReader("from")}, "from"},
		"env":      {RunRequest{Shell: "env A; env B", Env: []string{"B=2"}}, "1\n2\n"},
		"stdout":   {RunRequest{Shell: "echo direct", Stdout: &out}, ""},
		"progress": {RunRequest{Shell: "echo a; stderr b", Progress: func(p Progress) { fmt.Fprintf(&progress, "%s %d %s", p.Stream, p.Total, p.Data) }}, "a\n"},
	} {
		c.req.Sandbox = box
		if res, err := s.Run(t.Context(), c.req); err != nil || res.Stdout != c.want || *res.ExitCode != 0 {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
	if out.String() != "direct\n" || progress.String() != "stdout 2 a\nstderr 4 b\n" {
		t.Errorf("%q, %q", out.String(), progress.String())
	}
	for name, req := range map[string]RunRequest{
		"nothing":          {},
		"both":             {Shell: "true", Args: []string{"true"}},
		"two inputs":       {Shell: "true", Input: "x", Stdin: strings.NewReader("")},
		"streams":          {Shell: "true", Background: true, Stdout: &out},
		"negative timeout": {Shell: "true", Timeout: -1},
		"directory":        {Shell: "true", Dir: "x"},
		"environment":      {Shell: "true", Env: []string{"x"}},
	} {
		req.Sandbox = box
		_, err := s.Run(t.Context(), req)
		want(t, name, err, CodeInvalid)
	}
	_, err := s.Run(t.Context(), RunRequest{Sandbox: box, Shell: "nonsense"})
	want(t, "no program", err, CodeCannotRun)
	res, err := s.Run(t.Context(), RunRequest{Sandbox: box, Shell: "sleep 10", Timeout: 20 * time.Millisecond})
	if err != nil || !res.TimedOut || res.Signal != "SIGKILL" || *res.ExitCode != -1 {
		t.Errorf("%+v, %v", res, err)
	}
	eph, err := s.Run(t.Context(), RunRequest{Shell: "echo once"})
	if err != nil || !eph.Ephemeral || eph.Stdout != "once\n" {
		t.Errorf("%+v, %v", eph, err)
	}
	_, err = s.Inspect(t.Context(), eph.Sandbox)
	want(t, "ephemeral", err, CodeGone)
}

// inputs is a driver that tells whether its programs were given a standard input.
type inputs struct {
	sandbox.Driver
	given []bool
}

func (d *inputs) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	sb, err := d.Driver.Create(ctx, spec)
	return &inputsSandbox{sb, d}, err
}

type inputsSandbox struct {
	sandbox.Sandbox
	d *inputs
}

func (s *inputsSandbox) Exec(ctx context.Context, cmd sandbox.Cmd) (sandbox.Exit, error) {
	s.d.given = append(s.d.given, cmd.Stdin != nil)
	return s.Sandbox.Exec(ctx, cmd)
}

// TestNoInput has a program that is given no standard input not be connected to one: some systems take long for that.
func TestNoInput(t *testing.T) {
	var d *inputs
	w := open(t, func(cfg *Config) {
		d = &inputs{Driver: cfg.Drivers[0]}
		cfg.Drivers = []sandbox.Driver{d}
	})
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	for _, req := range []RunRequest{{}, {Input: "x"}, {Stdin: strings.NewReader("")}} {
		req.Sandbox, req.Shell = box, "cat"
		if res, err := s.Run(t.Context(), req); err != nil || res.Stdout != req.Input {
			t.Errorf("%+v, %v", res, err)
		}
	}
	if want := []bool{false, true, true}; !slices.Equal(d.given, want) {
		t.Errorf("an input was given: %v, want %v", d.given, want)
	}
}

func TestProcess(t *testing.T) {
	noLeaks(t)
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	cat := s.mustStart(t, box, "cat")
	for _, part := range []StdinRequest{{Data: "hello "}, {Data: "world", Close: true}} {
		part.Process = cat
		if _, err := s.WriteStdin(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	var got string
	var at int64
	for {
		p, err := s.Poll(t.Context(), PollRequest{Process: cat, Stdout: at, Wait: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		got, at = got+p.Stdout.Text, p.Stdout.Next
		if !p.Running && p.Stdout.End {
			break
		}
	}
	if got != "hello world" {
		t.Errorf("got %q", got)
	}
	_, err := s.WriteStdin(t.Context(), StdinRequest{Process: cat, Data: "more"})
	want(t, "closed", err, CodeConflict)
	_, err = s.Signal(t.Context(), SignalRequest{Process: cat, Signal: "TERM"})
	want(t, "ended", err, CodeConflict)

	for signal, name := range map[string]string{"TERM": "SIGTERM", "SIGINT": "SIGINT", "kill": "SIGKILL", "10": "SIGUSR1"} {
		p := s.mustStart(t, box, "sleep 1000")
		if _, err := s.Signal(t.Context(), SignalRequest{Process: p, Signal: signal}); err != nil {
			t.Fatalf("%s: %v", signal, err)
		}
		res, err := s.Poll(t.Context(), PollRequest{Process: p, Wait: time.Minute})
		if err != nil || res.Running || res.Signal != name || *res.ExitCode != -1 {
			t.Errorf("%s: %+v, %v", signal, res, err)
		}
	}
	p := s.mustStart(t, box, "nonsense")
	res, err := s.Poll(t.Context(), PollRequest{Process: p, Wait: time.Minute})
	if err != nil || res.Running || res.Error == nil || res.Error.Code != CodeCannotRun {
		t.Errorf("%+v, %v", res, err)
	}
	_, err = s.Signal(t.Context(), SignalRequest{Process: p, Signal: "NONSENSE"})
	want(t, "signal", err, CodeInvalid)

	// One that nobody reads for is not fed without end.
	lazy := s.mustStart(t, box, "sleep 1000")
	_, err = s.WriteStdin(t.Context(), StdinRequest{Process: lazy, Data: strings.Repeat("x", maxStdin)})
	_, err2 := s.WriteStdin(t.Context(), StdinRequest{Process: lazy, Data: "x"})
	if err != nil {
		t.Error(err)
	}
	want(t, "too much", err2, CodeConflict)

	// The sandbox of an ephemeral process goes with it.
	eph, err := s.Run(t.Context(), RunRequest{Shell: "sleep 0.05; echo done", Background: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Poll(t.Context(), PollRequest{Process: eph.Process, Wait: time.Minute}); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if _, err = s.Inspect(t.Context(), eph.Sandbox); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	want(t, "its sandbox", err, CodeGone)
	if out, err := s.Output(t.Context(), OutputRequest{Output: eph.Process}); err != nil || out.Text != "done\n" || !out.End {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestProcessesOutliveCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, nil)
		s := w.session(t, SessionSpec{})
		box := s.mustCreate(t, SandboxSpec{})
		ctx, cancel := context.WithCancel(t.Context())
		res, err := s.Run(ctx, RunRequest{Sandbox: box, Shell: "sleep 5; echo x", Background: true})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		time.Sleep(time.Second)
		if p, err := s.Poll(t.Context(), PollRequest{Process: res.Process, Wait: 2 * time.Second}); err != nil || !p.Running || p.DurationMS != 3000 {
			t.Errorf("%+v, %v", p, err)
		}
		if p, err := s.Poll(t.Context(), PollRequest{Process: res.Process, Wait: time.Minute}); err != nil || p.Stdout.Text != "x\n" || p.DurationMS > 5000 {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

func TestLongOutput(t *testing.T) {
	w := open(t, func(c *Config) { c.Limits.OutputShown, c.Limits.OutputKept, c.Limits.OutputsKept = 1000, 10_000, 2 })
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	res := s.mustRun(t, box, "flood 5000")
	if !res.Truncated || res.StdoutBytes != 5000 || len(res.Stdout) > 1200 || !strings.Contains(res.Stdout, "of 5000 bytes left out; output "+res.Output+" has them, stdout from offset") {
		t.Errorf("%+v", res)
	}
	whole, at := "", int64(0)
	for {
		c, err := s.Output(t.Context(), OutputRequest{Output: res.Output, Offset: at})
		if err != nil || c.Skipped != 0 {
			t.Fatalf("%+v, %v", c, err)
		}
		whole, at = whole+c.Text, c.Next
		if c.End {
			break
		}
	}
	if len(whole) != 5000 || !strings.HasPrefix(whole, res.Stdout[:400]) || !strings.HasSuffix(whole, res.Stdout[len(res.Stdout)-400:]) {
		t.Errorf("%d bytes", len(whole))
	}
	more := s.mustRun(t, box, "flood 100000")
	c, err := s.Output(t.Context(), OutputRequest{Output: more.Output, Offset: 5000})
	if err != nil || c.Skipped == 0 || c.Offset != 5000+c.Skipped {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err = s.Output(t.Context(), OutputRequest{Output: more.Output, Offset: -10}); err != nil || len(c.Text) != 10 || !c.End {
		t.Errorf("%+v, %v", c, err)
	}
	s.mustRun(t, box, "flood 5000") // the third: the first is forgotten
	_, err = s.Output(t.Context(), OutputRequest{Output: res.Output})
	want(t, "forgotten", err, CodeNotFound)
	_, err = s.Output(t.Context(), OutputRequest{Output: more.Output, Stream: "stdlog"})
	want(t, "stream", err, CodeInvalid)
}

func TestOutputsAreBounded(t *testing.T) {
	w := open(t, func(c *Config) { c.Limits.OutputShown, c.Limits.OutputsSize = 1000, 100_000 })
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	var ids []string
	for range 5 {
		ids = append(ids, s.mustRun(t, box, "flood 40000").Output)
	}
	for i, id := range ids {
		_, err := s.Output(t.Context(), OutputRequest{Output: id})
		if kept := err == nil; kept != (i >= 3) {
			t.Errorf("output %d: %v", i, err)
		}
	}
	if s.outputs.held != 80_000 {
		t.Errorf("%d bytes are held", s.outputs.held)
	}
}

// FuzzBuffer compares a buffer with all that was written to it.
func FuzzBuffer(f *testing.F) {
	f.Add(64, []byte("abc"), uint8(50), int64(3), 10)
	f.Add(100, []byte("äöü€"), uint8(200), int64(-30), 7)
	f.Fuzz(func(t *testing.T, limit int, piece []byte, times uint8, offset int64, size int) {
		if limit < 64 || limit > 1<<12 || len(piece) == 0 || len(piece) > 1<<12 || size < 4 || size > 1<<12 {
			return
		}
		b := newBuffer(limit)
		for range times {
			_, _ = b.Write(piece)
		}
		all := bytes.Repeat(piece, int(times))
		data, at, skipped, total, _ := b.read(offset, size)
		if total != int64(len(all)) || !bytes.Equal(data, all[at:at+int64(len(data))]) || len(data) > size {
			t.Fatalf("%q at %d of %d", data, at, total)
		}
		if len(all) <= limit && skipped != 0 {
			t.Errorf("%d of %d bytes were dropped", skipped, total)
		}
		if len(data) == 0 && at < total {
			t.Errorf("nothing at %d of %d", at, total)
		}
		text, cut := b.shown(size, Stdout, func() string { return "ou" })
		if !utf8.ValidString(text) || cut != (len(all) > size) {
			t.Errorf("%q", text)
		}
		b.end()
		// Reading on from chunk to chunk comes to the end.
		for at, n := int64(0), 0; ; n++ {
			c := b.chunk(at, size)
			if c.End {
				break
			}
			if c.Next <= at || n > len(all)+1 {
				t.Fatalf("it stays at %d: %+v", at, c)
			}
			at = c.Next
		}
	})
}

func TestCode(t *testing.T) {
	t.Run("directly", func(t *testing.T) { testCode(t, true) })
	t.Run("by a program", func(t *testing.T) { testCode(t, false) })
}

func testCode(t *testing.T, connects bool) {
	noLeaks(t)
	w := open(t, func(c *Config) { c.Limits.OutputShown = 256 })
	w.d.Connects = connects
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	code := func(id, code string) CodeResult {
		t.Helper()
		res, err := s.Code(t.Context(), CodeRequest{Sandbox: id, Code: code})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if res := code(box, "x = 41"); !res.Fresh || res.Value != "" {
		t.Errorf("%+v", res)
	}
	if n := w.d.Connected.Load(); (n > 0) != connects {
		t.Errorf("it connected %d times", n)
	}
	if res := code(box, "x"); res.Fresh || res.Value != "41" {
		t.Errorf("%+v", res)
	}
	if res := code(box, "raise it"); res.Error == nil || res.Error.Message != "it" || res.Error.Traceback == "" {
		t.Errorf("%+v", res)
	}
	if res := code(box, "!flood 5000"); !res.Truncated || res.Output == "" {
		t.Errorf("%+v", res)
	}
	fork, err := s.Fork(t.Context(), ForkRequest{Sandbox: box, Count: 2})
	if err != nil {
		t.Fatal(err)
	}
	child := fork.Children[0].Sandbox.ID
	code(box, "x = parent")
	if res := code(child, "x"); res.Value != "41" {
		t.Errorf("%+v", res)
	}
	code(child, "x = child")
	if a, b := code(box, "x"), code(fork.Children[1].Sandbox.ID, "x"); a.Value != "parent" || b.Value != "41" {
		t.Errorf("%+v, %+v", a, b)
	}
	if res := code("", "x"); !res.Ephemeral || !res.Fresh || res.Value != "" {
		t.Errorf("%+v", res)
	}
	_, err = s.Code(t.Context(), CodeRequest{Sandbox: box, Code: "x", Language: "cobol"})
	want(t, "cobol", err, CodeInvalid)
	_, err = s.Code(t.Context(), CodeRequest{Sandbox: box, Code: "!die"})
	want(t, "die", err, CodeGone)
}

// FuzzReply feeds what a sandbox may say in place of its interpreter.
func FuzzReply(f *testing.F) {
	f.Add([]byte("{\"o\":\"aGk=\"}\n{\"done\":true,\"value\":\"1\",\"error\":{\"name\":\"x\",\"message\":\"\\ud800\"}}\n"))
	f.Add([]byte("{}\n"))
	f.Add([]byte("{\"done\":true}\n{\"o\":\"eA==\"}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out, errs bytes.Buffer
		r := &replyWriter{stdout: &out, stderr: &errs}
		for part := range slices.Chunk(data, 7) {
			if _, err := r.Write(part); err != nil {
				if CodeOf(err) != CodeInternal {
					t.Error(err)
				}
				return
			}
		}
		if r.last != nil && r.last.Error != nil && !utf8.ValidString(r.last.Error.Message) {
			t.Errorf("%q", r.last.Error.Message)
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	noLeaks(t)
	w := open(t, nil)
	w.d.CreateTime = time.Millisecond
	s := w.session(t, SessionSpec{})
	shared := s.mustCreate(t, SandboxSpec{})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			box, err := s.Create(t.Context(), CreateRequest{})
			if err != nil {
				t.Error(err)
				return
			}
			name := fmt.Sprintf("/tmp/%d", i)
			for _, id := range []string{box.ID, shared} {
				if _, err := s.Write(t.Context(), WriteRequest{Sandbox: id, Path: name, Text: name}); err != nil {
					t.Error(err)
				}
				if res, err := s.Run(t.Context(), RunRequest{Sandbox: id, Shell: "cat " + name}); err != nil || res.Stdout != name {
					t.Errorf("%+v, %v", res, err)
				}
			}
			p := s.mustStart(t, shared, "sleep 0.01; echo x")
			if _, err := s.Poll(t.Context(), PollRequest{Process: p, Wait: time.Second}); err != nil {
				t.Error(err)
			}
			if _, err := s.List(t.Context()); err != nil {
				t.Error(err)
			}
			if i%2 == 0 {
				if _, err := s.Fork(t.Context(), ForkRequest{Sandbox: box.ID, Count: 2}); err != nil {
					t.Error(err)
				}
			}
			var killers sync.WaitGroup
			for range 3 {
				killers.Go(func() {
					if err := s.Kill(t.Context(), box.ID); err != nil {
						t.Error(err)
					}
				})
			}
			killers.Wait()
		})
	}
	wg.Wait()
	if n, _ := w.d.Left(); n != 1+16 {
		t.Errorf("%d are left", n)
	}
}

// TestEditsDoNotOvertake has many edits of one file at the same time, none of which may be lost.
func TestEditsDoNotOvertake(t *testing.T) {
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	var text strings.Builder
	for i := range 20 {
		fmt.Fprintf(&text, "<%d>\n", i)
	}
	if _, err := s.Write(t.Context(), WriteRequest{Sandbox: box, Path: "/tmp/f", Text: text.String(), Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := s.Write(t.Context(), WriteRequest{Sandbox: box, Path: "/tmp/f", Edits: []Edit{{Old: fmt.Sprintf("<%d>", i), New: "x"}}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	read, err := s.Read(t.Context(), ReadRequest{Sandbox: box, Path: "/tmp/f"})
	if err != nil || read.Text != strings.Repeat("x\n", 20) || read.Mode != "-rw-------" {
		t.Errorf("%+v, %v", read, err)
	}
}

func TestEditRefusals(t *testing.T) {
	w := open(t, func(c *Config) { c.Limits.FileSize = 100 })
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	for name, text := range map[string]string{"/tmp/f": "a = 1\nb = 1\n  c()\n", "/tmp/long": strings.Repeat("x", 101)} {
		if _, err := s.Write(t.Context(), WriteRequest{Sandbox: box, Path: name, Text: text}); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		req   WriteRequest
		code  Code
		cause string
	}{
		"twice":     {WriteRequest{Path: "/tmp/f", Edits: []Edit{{Old: "1", New: "2"}}}, CodeConflict, "2 times, on lines 1, 2"},
		"never":     {WriteRequest{Path: "/tmp/f", Edits: []Edit{{Old: "c()\nd()", New: "2"}}}, CodeConflict, "first line is found on line 3"},
		"second":    {WriteRequest{Path: "/tmp/f", Edits: []Edit{{Old: "a", New: "z"}, {Old: "q", New: "r"}}}, CodeConflict, "edit 1"},
		"empty":     {WriteRequest{Path: "/tmp/f", Edits: []Edit{{New: "x"}}}, CodeInvalid, "empty"},
		"grown":     {WriteRequest{Path: "/tmp/f", Edits: []Edit{{Old: "1", New: strings.Repeat("x", 60), All: true}}}, CodeInvalid, "larger than 100"},
		"same":      {WriteRequest{Path: "/tmp/f", Edits: []Edit{{Old: "x", New: "x"}}}, CodeInvalid, "same"},
		"both":      {WriteRequest{Path: "/tmp/f", Text: "x", Edits: []Edit{{Old: "a", New: "b"}}}, CodeInvalid, "both"},
		"missing":   {WriteRequest{Path: "/tmp/g", Edits: []Edit{{Old: "a", New: "b"}}}, CodeNotFound, "/tmp/g"},
		"too large": {WriteRequest{Path: "/tmp/long", Edits: []Edit{{Old: "a", New: "b"}}}, CodeInvalid, "larger"},
		"path":      {WriteRequest{Path: "tmp/f", Text: "x"}, CodeInvalid, "path"},
		"base64":    {WriteRequest{Path: "/tmp/f", Text: "!", Encoding: "base64"}, CodeInvalid, "base64"},
		"mode":      {WriteRequest{Path: "/tmp/f", Text: "x", Mode: 0o4755}, CodeInvalid, "mode"},
	} {
		c.req.Sandbox = box
		_, err := s.Write(t.Context(), c.req)
		if e := wantError(t, name, err, c.code); !strings.Contains(e.Cause, c.cause) {
			t.Errorf("%s: %v", name, e)
		}
	}
	if read, err := s.Read(t.Context(), ReadRequest{Sandbox: box, Path: "/tmp/f"}); err != nil || !strings.HasPrefix(read.Text, "a = 1\nb = 1") {
		t.Errorf("%+v, %v", read, err)
	}
}

// TestReadRanges reads parts of a long file, for which no more than they are is read.
func TestReadRanges(t *testing.T) {
	w := open(t, func(c *Config) { c.Limits.ReadSize = 100 })
	s := w.session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{})
	const size = 1 << 20
	text := strings.Repeat("0123456789abcdef", size/16)
	if _, err := s.Write(t.Context(), WriteRequest{Sandbox: box, Path: "/tmp/f", Text: text}); err != nil {
		t.Fatal(err)
	}
	before := w.d.Read()
	for _, c := range []struct {
		offset int64
		max    int
		at     int64
		text   string
		next   int64
	}{
		{size - 32, 16, size - 32, text[:16], size - 16}, {size - 16, 16, size - 16, text[:16], 0}, {-3, 0, size - 3, "def", 0},
		{size, 10, size, "", 0}, {maxSkip * 8, 10, size, "", 0}, {1, 2, 1, "12", 3},
	} {
		res, err := s.Read(t.Context(), ReadRequest{Sandbox: box, Path: "/tmp/f", Offset: c.offset, Max: c.max})
		if err != nil || res.Text != c.text || res.Offset != c.at || res.Size != size || (res.Next == nil) != (c.next == 0) || c.next != 0 && *res.Next != c.next {
			t.Errorf("%d bytes at %d: %+v, %v", c.max, c.offset, res, err)
		}
	}
	if n := w.d.Read() - before; n > 100 {
		t.Errorf("%d bytes were read", n)
	}
	// Where only whole files can be read, there is a bound.
	whole := runtimetest.New("docker")
	whole.NoPause = true
	w = open(t, nil, whole)
	s = w.session(t, SessionSpec{})
	_, err := s.Read(t.Context(), ReadRequest{Sandbox: s.mustCreate(t, SandboxSpec{System: "docker"}), Path: "/etc/os-release", Offset: maxSkip + 1})
	if e := wantError(t, "far", err, CodeInvalid); !strings.Contains(e.Cause, "begins after") {
		t.Error(e)
	}
}
