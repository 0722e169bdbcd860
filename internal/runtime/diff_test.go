package runtime

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

func TestDiff(t *testing.T) {
	w := open(t, nil)
	w.d.Forks = true
	s := w.session(t, SessionSpec{})
	a := s.mustCreate(t, SandboxSpec{})
	s.mustRun(t, a, "write /tmp/same x; write /tmp/old x; write /tmp/f one")
	forked, err := s.Fork(t.Context(), ForkRequest{Sandbox: a})
	if err != nil {
		t.Fatal(err)
	}
	b := forked.Children[0].Sandbox.ID
	res, err := s.Diff(t.Context(), DiffRequest{Sandbox: a, Other: b})
	if err != nil || len(res.Changes) != 0 || res.Changes == nil || res.Next != "" || res.Memory == nil || res.A != a || res.B != b {
		t.Fatalf("a copy: %+v, %v", res, err)
	}
	bad := "/tmp/\x1b[2J\xff\n"
	for name, text := range map[string]string{"/tmp/f": "two", bad: "n"} {
		if _, err := s.Write(t.Context(), WriteRequest{Sandbox: b, Path: name, Text: text}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove(t.Context(), b, "/tmp/old"); err != nil {
		t.Fatal(err)
	}
	res, err = s.Diff(t.Context(), DiffRequest{Sandbox: a, Other: b})
	if err != nil || len(res.Changes) != 3 {
		t.Fatalf("%+v, %v", res, err)
	}
	added, changed, removed := res.Changes[0], res.Changes[1], res.Changes[2]
	if added.Kind != sandbox.ChangeAdded || added.Path != "/tmp/\x1b[2J\uFFFD\n" || added.PathBase64 != "L3RtcC8bWzJK/wo=" || added.A != nil || added.B.Size != 1 {
		t.Errorf("added: %+v", added)
	}
	if changed.Kind != sandbox.ChangeChanged || changed.Content != sandbox.ContentDiffers || changed.PathBase64 != "" || changed.A.Type != "file" {
		t.Errorf("changed: %+v", changed)
	}
	if removed.Kind != sandbox.ChangeRemoved || removed.Path != "/tmp/old" || removed.B != nil {
		t.Errorf("removed: %+v", removed)
	}
	// In parts.
	var paths []string
	for after, n := "", 0; n < 10; n++ {
		res, err := s.Diff(t.Context(), DiffRequest{Sandbox: a, Other: b, After: after, Max: 1})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range res.Changes {
			paths = append(paths, c.Path)
		}
		if after = res.Next; after == "" {
			break
		}
	}
	if len(paths) != 3 || paths[2] != "/tmp/old" {
		t.Errorf("in parts: %q", paths)
	}
}

// A sandbox that has as many long names as it likes gets them shown in parts.
func TestDiffIsBounded(t *testing.T) {
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	a, b := s.mustCreate(t, SandboxSpec{}), s.mustCreate(t, SandboxSpec{})
	for i := range 500 {
		if _, err := s.Write(t.Context(), WriteRequest{Sandbox: b, Path: fmt.Sprintf("/tmp/%s/%d", strings.Repeat("n", 4000), i), Text: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	res, err := s.Diff(t.Context(), DiffRequest{Sandbox: a, Other: b})
	if n := len(res.Changes) * 4000; err != nil || n < maxChangeBytes/2 || n > maxChangeBytes || res.Next != res.Changes[len(res.Changes)-1].Path {
		t.Errorf("%d bytes of names, %v", n, err)
	}
}

func TestDiffRefuses(t *testing.T) {
	other := runtimetest.New("docker")
	w := open(t, nil, other)
	s, apart := w.session(t, SessionSpec{}), w.session(t, SessionSpec{ID: "apart"})
	a, b := s.mustCreate(t, SandboxSpec{}), s.mustCreate(t, SandboxSpec{})
	_, err := s.Diff(t.Context(), DiffRequest{Sandbox: a, Other: a})
	want(t, "with itself", err, CodeInvalid)
	_, err = s.Diff(t.Context(), DiffRequest{Sandbox: a, Other: apart.mustCreate(t, SandboxSpec{})})
	want(t, "of another session", err, CodeNotFound)
	_, err = s.Diff(t.Context(), DiffRequest{Sandbox: a, Other: s.mustCreate(t, SandboxSpec{Image: "else"})})
	want(t, "of another image", err, CodeInvalid)
	_, err = s.Diff(t.Context(), DiffRequest{Sandbox: a, Other: s.mustCreate(t, SandboxSpec{System: "docker"})})
	want(t, "of another system", err, CodeInvalid)
	_, err = s.Diff(t.Context(), DiffRequest{Sandbox: a, Other: b, Max: maxChanges + 1})
	want(t, "too many", err, CodeInvalid)
	_, err = s.Diff(t.Context(), DiffRequest{Sandbox: a, Other: b, After: "tmp"})
	want(t, "behind no path", err, CodeInvalid)
	if err := s.Kill(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	_, err = s.Diff(t.Context(), DiffRequest{Sandbox: a, Other: b})
	want(t, "with one that is gone", err, CodeGone)
	w.d.Die()
	_, err = s.Diff(t.Context(), DiffRequest{Sandbox: a, Other: s.mustCreate(t, SandboxSpec{})})
	want(t, "of one that died", err, CodeGone)
}
