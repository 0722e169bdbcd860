package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

// templatePatience bounds the making of a template: a guest boots, all that it has touched goes through a hash, and a copy is
// tried.
const templatePatience = 2 * patience

// testTemplate makes templates, copies and removes them. It uses a name that nobody else does.
func (s *suite) testTemplate(t *testing.T, d sandbox.Driver) {
	tr, ok := d.(sandbox.Templater)
	if !ok {
		t.Skipf("%s has no templates", d.System())
	}
	const name = "sandboxtest-template"
	_ = tr.RemoveTemplate(t.Context(), name) // of a run that was killed
	s.wantTemplates(t, tr, name, 0)
	ctx, cancel := context.WithTimeout(t.Context(), templatePatience)
	defer cancel()

	var said bytes.Buffer
	var stages []sandbox.TemplateStage
	spec := sandbox.TemplateSpec{Name: name, Spec: s.spec(), WarmUp: []sandbox.Cmd{
		{Args: []string{"sh", "-c", "cat >/tmp/ticker.py"}, Stdin: strings.NewReader(ticker)},
		{Args: []string{"sh", "-c", "cat >/tmp/identity.py; echo before >/root/before; echo warm"}, Stdin: strings.NewReader(identity), Stdout: &said},
		{Args: []string{"sh", "-c", "python3 /tmp/ticker.py >/dev/null 2>&1 </dev/null & until [ -s /tmp/tick ]; do sleep 0.1; done"}},
	}, Progress: func(p sandbox.TemplateProgress) {
		if n := len(stages); n == 0 || stages[n-1] != p.Stage {
			stages = append(stages, p.Stage)
		}
		if p.Done > p.Total {
			t.Errorf("%d of %d bytes", p.Done, p.Total)
		}
	}}
	first, err := tr.CreateTemplate(ctx, spec)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if first.System != d.System() || first.Name != name || !strings.HasPrefix(first.Digest, "sha256:") || first.Bytes <= 0 || len(first.WarmUp) != 3 {
		t.Errorf("incomplete: %+v", first)
	}
	if said.String() != "warm\n" {
		t.Errorf("the warm-up has written %q", said.String())
	}
	if len(stages) < 3 || stages[0] != sandbox.TemplateBoot || stages[1] != sandbox.TemplateWarmUp || stages[len(stages)-1] != sandbox.TemplateFinish {
		t.Errorf("stages: %q", stages)
	}
	if list := s.wantTemplates(t, tr, name, 1); len(list) == 1 && (list[0].Digest != first.Digest || !list[0].Created.Equal(first.Created)) {
		t.Errorf("listed %+v, made %+v", list[0], first)
	}

	old := s.forkTemplate(t, tr, name, 2)
	var wg sync.WaitGroup
	for _, b := range old {
		wg.Go(func() { s.checkRestored(t, b, sandbox.SnapshotFull) })
	}
	wg.Wait()
	s.checkDiffer(t, old)
	old[0].write(t, "/root/after", "after") // in this one only
	for _, n := range []int{0, -1} {
		if list, err := tr.ForkTemplate(t.Context(), name, n); !errors.Is(err, sandbox.ErrInvalid) || list != nil {
			t.Errorf("%d copies: %v, %v", n, list, err)
		}
	}

	s.testTemplateFailures(t, tr, name, first)

	// The same name again: what was made of the older one lives on.
	ctx, cancel = context.WithTimeout(t.Context(), templatePatience)
	defer cancel()
	second, err := tr.CreateTemplate(ctx, sandbox.TemplateSpec{Name: name, Spec: s.spec(),
		WarmUp: []sandbox.Cmd{{Args: []string{"sh", "-c", "echo second >/root/before"}}}})
	if err != nil {
		t.Fatalf("the same name again: %v", err)
	}
	if list := s.wantTemplates(t, tr, name, 1); second.Digest == first.Digest || len(list) == 1 && list[0].Digest != second.Digest {
		t.Errorf("first %s, second %s, listed %+v", first.Digest, second.Digest, list)
	}
	newer := s.forkTemplate(t, tr, name, 1)
	if got := newer[0].sh(t, "cat /root/before"); got != "second" {
		t.Errorf("a copy of the second: %q", got)
	}
	if err := tr.RemoveTemplate(t.Context(), name); err != nil {
		t.Errorf("remove: %v", err)
	}
	s.wantTemplates(t, tr, name, 0)
	if err := tr.RemoveTemplate(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remove what is gone: %v", err)
	}
	if list, err := tr.ForkTemplate(t.Context(), name, 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("copies of what is gone: %v, %v", list, err)
	}
	if got := old[0].sh(t, "cat /root/after"); got != "after" {
		t.Errorf("a copy of what is gone: %q", got)
	}
	for _, b := range append(old, newer...) {
		b.sh(t, "python3 -c 'import json, uuid'") // pages that it has not touched yet
		if err := b.Close(); err != nil {
			t.Errorf("close a copy: %v", err)
		}
	}
}

// testTemplateFailures tries to make templates of the name of one that is there. Each time it stays as it is, and nothing else
// is left.
func (s *suite) testTemplateFailures(t *testing.T, tr sandbox.Templater, name string, there sandbox.Template) {
	t.Helper()
	stays := func(when string) {
		t.Helper()
		if list := s.wantTemplates(t, tr, name, 1); len(list) == 1 && list[0].Digest != there.Digest {
			t.Errorf("%s: %+v is there, not %s", when, list[0], there.Digest)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), templatePatience)
	defer cancel()
	bad := sandbox.TemplateSpec{Name: name, Spec: s.spec(), WarmUp: []sandbox.Cmd{
		{Args: []string{"true"}}, {Args: []string{"sh", "-c", "echo out; echo it broke here >&2; exit 3"}}}}
	if _, err := tr.CreateTemplate(ctx, bad); !errors.Is(err, sandbox.ErrInvalid) || !strings.Contains(err.Error(), "it broke here") {
		t.Errorf("a warm-up that fails: %v", err)
	}
	stays("a warm-up that fails")

	ctx, cancel = context.WithTimeout(t.Context(), templatePatience)
	defer cancel()
	slow := sandbox.TemplateSpec{Name: name, Spec: s.spec(), WarmUp: []sandbox.Cmd{{Args: []string{"sleep", "1000"}}}}
	slow.Progress = func(p sandbox.TemplateProgress) {
		if p.Stage == sandbox.TemplateWarmUp {
			cancel()
		}
	}
	if _, err := tr.CreateTemplate(ctx, slow); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	stays("cancelled")
}

// wantTemplates lists those of a name, and wants so many.
func (s *suite) wantTemplates(t *testing.T, tr sandbox.Templater, name string, n int) (found []sandbox.Template) {
	t.Helper()
	list, err := tr.Templates(t.Context())
	if err != nil {
		t.Fatalf("list templates: %v", err)
	}
	for _, e := range list {
		if e.Name == name {
			found = append(found, e)
		}
	}
	if len(found) != n {
		t.Errorf("%d templates of the name, want %d: %+v", len(found), n, found)
	}
	return found
}

func (s *suite) forkTemplate(t *testing.T, tr sandbox.Templater, name string, n int) []*box {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	list, err := tr.ForkTemplate(ctx, name, n)
	if err != nil || len(list) != n {
		t.Fatalf("%d copies of a template: %d, %v", n, len(list), err)
	}
	boxes := make([]*box, n)
	for i, c := range list {
		boxes[i] = &box{c}
	}
	return boxes
}
