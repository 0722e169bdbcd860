package treediff

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/sandbox"
)

// liar is an agent that says what the test does.
type liar struct {
	changes func(each func(agentproto.Change) error) (agentproto.Walked, error)
	examine func(list []agentproto.Want, each func(agentproto.Change) error) error
}

func (l liar) Changes(_ context.Context, _ string, _ int, each func(agentproto.Change) error) (agentproto.Walked, error) {
	if l.changes == nil {
		return agentproto.Walked{}, nil
	}
	return l.changes(each)
}

func (l liar) Examine(_ context.Context, list []agentproto.Want, each func(agentproto.Change) error) error {
	if l.examine != nil {
		return l.examine(list, each)
	}
	for _, w := range list {
		if err := each(agentproto.Change{Path: w.Path, Gone: true}); err != nil {
			return err
		}
	}
	return nil
}

func says(more bool, list ...agentproto.Change) func(each func(agentproto.Change) error) (agentproto.Walked, error) {
	return func(each func(agentproto.Change) error) (agentproto.Walked, error) {
		for _, c := range list {
			if err := each(c); err != nil {
				return agentproto.Walked{}, err
			}
		}
		return agentproto.Walked{More: more}, nil
	}
}

func paths(names ...string) []agentproto.Change {
	list := make([]agentproto.Change, len(names))
	for i, n := range names {
		list[i] = agentproto.Change{Path: n, Mode: 0o644, Size: 1}
	}
	return list
}

// An agent that keeps to no rule ends the comparison, and is not held.
func TestHostileAgents(t *testing.T) {
	file := paths("/a")
	for name, l := range map[string]liar{
		"no order":         {changes: says(false, paths("/b", "/a")...)},
		"twice":            {changes: says(false, paths("/a", "/a")...)},
		"below the next":   {changes: says(false, paths("/a", "/a-b", "/a/b")...)},
		"relative":         {changes: says(false, paths("a")...)},
		"up":               {changes: says(false, paths("/a/../../etc")...)},
		"not clean":        {changes: says(false, paths("/a//b")...)},
		"a slash at last":  {changes: says(false, paths("/a/")...)},
		"the root":         {changes: says(false, paths("/")...)},
		"a NUL":            {changes: says(false, paths("/a\x00")...)},
		"too long":         {changes: says(false, paths("/"+strings.Repeat("x", 5000))...)},
		"more of nothing":  {changes: says(true)},
		"without end":      {changes: endless(1)},
		"long without end": {changes: endless(4000)},
		"long targets": {changes: func(each func(agentproto.Change) error) (agentproto.Walked, error) {
			for i := range 1000 {
				if err := each(agentproto.Change{Path: "/" + strconv.Itoa(1000+i), Mode: fs.ModeSymlink, Target: strings.Repeat("t", 1<<20)}); err != nil {
					return agentproto.Walked{}, err
				}
			}
			return agentproto.Walked{}, nil
		}},
		"another answer": {changes: says(false, file...), examine: func(_ []agentproto.Want, each func(agentproto.Change) error) error { return each(paths("/b")[0]) }},
		"no answer":      {changes: says(false, file...), examine: func([]agentproto.Want, func(agentproto.Change) error) error { return nil }},
		"one answer too many": {changes: says(false, file...), examine: func(_ []agentproto.Want, each func(agentproto.Change) error) error {
			return errors.Join(each(file[0]), each(file[0]))
		}},
	} {
		honest := liar{changes: says(false, paths("/a")...)}
		for _, pair := range [][2]Tree{{l, honest}, {honest, l}} {
			_, err := Compare(t.Context(), pair[0], pair[1], time.Time{}, sandbox.DiffOptions{}, func(sandbox.FileChange) error { return nil })
			if !errors.Is(err, agentproto.ErrProtocol) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func endless(size int) func(each func(agentproto.Change) error) (agentproto.Walked, error) {
	return func(each func(agentproto.Change) error) (agentproto.Walked, error) {
		for i := range 1 << 30 {
			if err := each(agentproto.Change{Path: "/" + strconv.Itoa(1<<30+i) + strings.Repeat("x", size)}); err != nil {
				return agentproto.Walked{}, err
			}
		}
		return agentproto.Walked{}, nil
	}
}

// Content that was not asked for, or is of another file, counts for nothing.
func TestDigestsThatWereNotAskedFor(t *testing.T) {
	digest := strings.Repeat("d", agentproto.DigestSize)
	one, two := paths("/f")[0], paths("/f")[0]
	one.Digest, two.Digest = digest, digest
	grows := func(list []agentproto.Want, each func(agentproto.Change) error) error {
		return each(agentproto.Change{Path: list[0].Path, Mode: 0o644, Size: list[0].Size + 1, Digest: digest})
	}
	same := func(list []agentproto.Want, each func(agentproto.Change) error) error {
		return each(agentproto.Change{Path: list[0].Path, Mode: 0o644, Size: list[0].Size, Digest: digest})
	}
	none := func(list []agentproto.Want, each func(agentproto.Change) error) error {
		return each(agentproto.Change{Path: list[0].Path, Mode: 0o644, Size: list[0].Size})
	}
	for _, c := range []struct {
		name string
		a, b func([]agentproto.Want, func(agentproto.Change) error) error
		want sandbox.ContentState
	}{
		{"both", same, same, ""}, {"one is silent", same, none, sandbox.ContentUnknown}, {"one grows", same, grows, sandbox.ContentDiffers},
	} {
		var got sandbox.ContentState
		_, err := Compare(t.Context(), liar{says(false, one), c.a}, liar{says(false, two), c.b}, time.Time{}, sandbox.DiffOptions{}, func(f sandbox.FileChange) error {
			got = f.Content
			return nil
		})
		if err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

// What ends the caller's wish ends the comparison.
func TestCompareEnds(t *testing.T) {
	stop := errors.New("enough")
	n := 0
	_, err := Compare(t.Context(), liar{changes: says(false, paths("/a", "/b")...)}, liar{}, time.Time{}, sandbox.DiffOptions{}, func(sandbox.FileChange) error {
		n++
		return stop
	})
	if !errors.Is(err, stop) || n != 1 {
		t.Errorf("%d changes, %v", n, err)
	}
	for name, opt := range map[string]sandbox.DiffOptions{"paths": {Paths: -1}, "bytes": {Bytes: -1}, "path": {After: "x"}} {
		if _, err := Compare(t.Context(), liar{}, liar{}, time.Time{}, opt, nil); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := errors.New("broken")
	waits := liar{changes: func(func(agentproto.Change) error) (agentproto.Walked, error) { return agentproto.Walked{}, broken }}
	if _, err := Compare(t.Context(), liar{}, waits, time.Time{}, sandbox.DiffOptions{}, nil); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func TestOrder(t *testing.T) {
	list := []string{"/a", "/a/b", "/a/b/c", "/a/\xff", "/a\x01", "/a-", "/a-/x", "/aa", "/b"}
	for i := range list {
		for j := range list {
			if less(list[i], list[j]) != (i < j) {
				t.Errorf("%q and %q", list[i], list[j])
			}
		}
	}
}

// Two agents that say anything give changes in order, with paths that can be, or an error.
func FuzzCompare(f *testing.F) {
	frames := func(list ...agentproto.Change) []byte {
		var b []byte
		for _, c := range list {
			b = agentproto.AppendFrame(b, agentproto.KindChange, agentproto.AppendChange(nil, c))
		}
		return agentproto.AppendFrame(b, agentproto.KindDone, agentproto.Walked{}.Append(nil))
	}
	full := agentproto.Change{Path: "/b", Mode: fs.ModeSymlink | 0o777, UID: 1, GID: 2, Size: 3, Modified: time.Unix(1, 2), Changed: time.Unix(3, 4), Target: "t"}
	f.Add(frames(paths("/a", "/b")...), frames(full), frames(paths("/a")...))
	f.Add(frames(agentproto.Change{Path: "/a", Gone: true}), frames(), frames(full))
	f.Add([]byte{30, 1, 0, 0, 0, 0}, []byte{21, 1, 0, 0, 0, 1}, []byte{22, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, first, second, answers []byte) {
		agent := func(said []byte) liar {
			return liar{func(each func(agentproto.Change) error) (agentproto.Walked, error) {
				payload, err := agentproto.ReadReply(bytes.NewReader(said), each)
				if err != nil {
					return agentproto.Walked{}, err
				}
				return agentproto.DecodeWalked(payload)
			}, func(_ []agentproto.Want, each func(agentproto.Change) error) error {
				_, err := agentproto.ReadReply(bytes.NewReader(answers), each)
				return err
			}}
		}
		last := ""
		var whole time.Time
		if len(answers)%2 == 0 {
			whole = time.Unix(1<<33, 0)
		}
		d, err := Compare(t.Context(), agent(first), agent(second), whole, sandbox.DiffOptions{Paths: 50}, func(c sandbox.FileChange) error {
			if checkPath(c.Path) != nil || last != "" && !less(last, c.Path) || c.A == nil && c.B == nil || own(c.Path) {
				t.Errorf("%+v behind %q", c, last)
			}
			last = c.Path
			return nil
		})
		if err == nil && d.Paths > 50 {
			t.Errorf("%+v", d)
		}
	})
}
