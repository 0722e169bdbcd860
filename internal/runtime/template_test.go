package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

// keeping opens a runtime on a system that keeps templates.
func keeping(t *testing.T, change func(*Config)) (*world, *runtimetest.Keeper) {
	t.Helper()
	var k *runtimetest.Keeper
	w := open(t, func(c *Config) {
		k = runtimetest.NewKeeper(c.Drivers[0].(*runtimetest.Driver))
		c.Drivers[0] = k
		if change != nil {
			change(c)
		}
	})
	return w, k
}

func (s *Session) mustTemplate(t testing.TB, req TemplateRequest) TemplateInfo {
	t.Helper()
	info, err := s.CreateTemplate(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func (s *Session) template(t testing.TB, name string) (TemplateInfo, error) {
	return s.r.TemplateOf(t.Context(), s.tenant.ID, name)
}

// tenantSession opens a session of another tenant.
func (w *world) tenantSession(t *testing.T, name string, can ...Capability) *Session {
	t.Helper()
	tenant, _, err := w.CreateTenant(t.Context(), TenantSpec{Name: name, Capabilities: can})
	if err != nil {
		t.Fatal(err)
	}
	s, err := w.OpenSession(t.Context(), tenant.ID, SessionSpec{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTemplate(t *testing.T) {
	noLeaks(t)
	w, k := keeping(t, nil)
	s := w.session(t, SessionSpec{})
	var stages []sandbox.TemplateStage
	var out bytes.Buffer
	req := TemplateRequest{Name: "py", MemoryMiB: 128, Env: []string{"A=b"}, WarmUp: []string{"write /f warm; echo done", "true"}, Key: "k",
		Stdout: &out, Progress: func(p sandbox.TemplateProgress) { stages = append(stages, p.Stage) }}
	made := s.mustTemplate(t, req)
	if made.ID == "" || !IsTemplateID(made.ID) || made.Name != "py" || made.System != "gvisor" || made.Image != "base" || made.MemoryMiB != 128 || made.VCPUs != 1 ||
		made.Digest == "" || made.Bytes == 0 || made.Foreign || made.Shared || len(made.WarmUp) != 2 {
		t.Errorf("%+v", made)
	}
	if out.String() != "done\n" || len(stages) != 7 || stages[0] != sandbox.TemplateBoot || stages[6] != sandbox.TemplateFinish {
		t.Errorf("%q, %v", &out, stages)
	}
	if again := s.mustTemplate(t, req); again.ID != made.ID || len(k.Kept()) != 1 {
		t.Errorf("with the same key: %+v, %v", again, k.Kept())
	}
	for _, name := range []string{"py", made.ID} {
		info, err := s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Template: name, TTL: time.Hour, Labels: map[string]string{"a": "b"}}})
		if err != nil || info.Template != made.ID || info.MemoryMiB != 128 || info.Image != "base" || info.ExpiresIn == nil || info.Labels["a"] != "b" || info.System != "gvisor" {
			t.Fatalf("%+v, %v", info, err)
		}
		if res := s.mustRun(t, info.ID, "cat /f"); res.Stdout != "warm" {
			t.Errorf("%+v", res)
		}
		// It is a sandbox like another.
		snap, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: info.ID})
		if err == nil {
			_, err = s.Rollback(t.Context(), RollbackRequest{Sandbox: info.ID, Snapshot: snap.ID})
		}
		if err == nil {
			_, err = s.Restore(t.Context(), RestoreRequest{Snapshot: snap.ID})
		}
		if err == nil {
			_, err = s.Fork(t.Context(), ForkRequest{Sandbox: info.ID})
		}
		if err != nil {
			t.Error(err)
		}
	}
	res, err := s.Run(t.Context(), RunRequest{Ephemeral: SandboxSpec{Template: "py"}, Shell: "cat /f"})
	if err != nil || res.Stdout != "warm" {
		t.Errorf("alone: %+v, %v", res, err)
	}
	list, err := s.List(t.Context())
	if err != nil || len(list.Templates) != 1 || list.Templates[0].ID != made.ID {
		t.Errorf("%+v, %v", list.Templates, err)
	}
	events, err := w.Events(t.Context(), s.tenant.ID, w.events.first)
	if err != nil || !slices.ContainsFunc(events.Events, func(e Event) bool { return e.Type == EventTemplateCreated && e.Template == made.ID }) ||
		!slices.ContainsFunc(events.Events, func(e Event) bool { return e.Type == EventCreated && e.Template == made.ID }) {
		t.Errorf("%+v, %v", events, err)
	}

	// A new one takes over the name.
	next := s.mustTemplate(t, TemplateRequest{Name: "py", WarmUp: []string{"write /f newer"}})
	if got, err := s.Templates(t.Context()); err != nil || len(got) != 1 || got[0].ID != next.ID || len(k.Kept()) != 1 {
		t.Errorf("%+v, %v, %v", got, err, k.Kept())
	}
	_, err = s.template(t, made.ID)
	want(t, "replaced", err, CodeNotFound)
	box := s.mustCreate(t, SandboxSpec{Template: "py"})

	if err := s.RemoveTemplate(t.Context(), "py"); err != nil || len(k.Kept()) != 0 {
		t.Errorf("%v, %v", err, k.Kept())
	}
	if res := s.mustRun(t, box, "cat /f"); res.Stdout != "newer" { // lives on
		t.Errorf("%+v", res)
	}
	_, err = s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Template: "py"}})
	want(t, "removed", err, CodeNotFound)
	want(t, "removed twice", s.RemoveTemplate(t.Context(), "py"), CodeNotFound)
	audit, err := w.Audit(t.Context(), s.tenant.ID, AuditQuery{})
	if raw, _ := json.Marshal(audit); err != nil || !strings.Contains(string(raw), `"create template"`) || !strings.Contains(string(raw), `"remove template"`) {
		t.Errorf("%s, %v", raw, err)
	}
}

func TestTemplateIsRefused(t *testing.T) {
	w, k := keeping(t, nil)
	s := w.session(t, SessionSpec{})
	s.mustTemplate(t, TemplateRequest{Name: "py"})
	for what, req := range map[string]TemplateRequest{
		"no name":     {},
		"path":        {Name: "../x"},
		"capitals":    {Name: "Py"},
		"an ID":       {Name: "tmaaaaaaaaaa"},
		"a runtime's": {Name: "rtaaaaaaaaaa.tmaaaaaaaaaa"},
		"empty":       {Name: "x", WarmUp: []string{""}},
		"too many":    {Name: "x", WarmUp: slices.Repeat([]string{"true"}, 65)},
		"too long":    {Name: "x", WarmUp: []string{strings.Repeat("x", 64<<10+1)}},
		"memory":      {Name: "x", MemoryMiB: 1},
		"fails":       {Name: "py", WarmUp: []string{"exit 3"}},
	} {
		_, err := s.CreateTemplate(t.Context(), req)
		want(t, what, err, CodeInvalid)
	}
	_, err := s.CreateTemplate(t.Context(), TemplateRequest{Name: "x", Image: "missing"})
	want(t, "image", err, CodeNotFound)
	_, err = s.CreateTemplate(t.Context(), TemplateRequest{Name: "x", Network: sandbox.NetworkOutbound, Egress: []string{"127.0.0.1:1"}})
	want(t, "network", err, CodeDenied)
	for what, spec := range map[string]SandboxSpec{
		"image": {Image: "base"}, "memory": {MemoryMiB: 64}, "env": {Env: []string{"A=b"}}, "network": {Network: sandbox.NetworkOutbound}, "system": {System: "docker"},
		"secrets": {Secrets: []SecretUse{{Name: "x"}}}, "time to live": {TTL: -1},
	} {
		spec.Template = "py"
		_, err := s.Create(t.Context(), CreateRequest{SandboxSpec: spec})
		want(t, what, err, CodeInvalid)
	}
	if len(k.Kept()) != 1 {
		t.Errorf("%v", k.Kept())
	}
	// What a session may not do.
	for _, can := range [][]Capability{{CanRead}, {CanRead, CanExec}, {CanRead, CanFork}} {
		less := w.session(t, SessionSpec{Capabilities: can})
		_, err := less.CreateTemplate(t.Context(), TemplateRequest{Name: "y"})
		want(t, fmt.Sprint(can), err, CodeDenied)
		if !less.can(CanFork) {
			want(t, fmt.Sprint(can), less.RemoveTemplate(t.Context(), "py"), CodeDenied)
		}
	}
	// A template with a network is for who may have one.
	free := w.session(t, SessionSpec{Capabilities: allCapabilities()})
	free.mustTemplate(t, TemplateRequest{Name: "net", Egress: []string{"pypi.org:443"}})
	_, err = s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Template: "net"}})
	want(t, "network", err, CodeDenied)
	free.mustCreate(t, SandboxSpec{Template: "net"})
}

// A system without templates says so, and auto passes it over.
func TestTemplateUnsupported(t *testing.T) {
	w := open(t, nil)
	_, err := w.session(t, SessionSpec{}).CreateTemplate(t.Context(), TemplateRequest{Name: "py"})
	if e := wantError(t, "no templates", err, CodeUnsupported); !strings.Contains(e.Remedy, "snapshot") || !strings.Contains(e.Cause, "gvisor") {
		t.Error(e)
	}
	k := runtimetest.NewKeeper(runtimetest.New("docker"))
	w = open(t, func(c *Config) { c.Drivers = append(c.Drivers, k) })
	s := w.session(t, SessionSpec{})
	if made := s.mustTemplate(t, TemplateRequest{Name: "py"}); made.System != "docker" {
		t.Errorf("%+v", made)
	}
	if info, err := s.Inspect(t.Context(), s.mustCreate(t, SandboxSpec{Template: "py"})); err != nil || info.System != "docker" {
		t.Errorf("%+v, %v", info, err)
	}
	private := open(t, func(c *Config) { c.StateDir, c.Drivers = "", []sandbox.Driver{k} })
	_, err = private.session(t, SessionSpec{}).CreateTemplate(t.Context(), TemplateRequest{Name: "py"})
	want(t, "nothing is kept", err, CodeUnsupported)
}

// What another tenant has is answered as what there is not, until it is shared.
func TestTemplateOfAnother(t *testing.T) {
	w, k := keeping(t, nil)
	one, other := w.tenantSession(t, "one"), w.tenantSession(t, "other")
	made := one.mustTemplate(t, TemplateRequest{Name: "py", WarmUp: []string{"write /f one"}})
	words := func(name string) string {
		t.Helper()
		var all []string
		_, err := other.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Template: name}})
		all = append(all, wantError(t, name, err, CodeNotFound).Error())
		_, err = other.template(t, name)
		all = append(all, wantError(t, name, err, CodeNotFound).Error())
		all = append(all, wantError(t, name, other.RemoveTemplate(t.Context(), name), CodeNotFound).Error())
		return strings.ReplaceAll(strings.Join(all, "\n"), name, "NAME")
	}
	if a, b := words("py"), words("nothing"); a != b || a != words(made.ID) {
		t.Errorf("%q and %q", a, b)
	}
	if list, err := other.Templates(t.Context()); err != nil || len(list) != 0 || list == nil {
		t.Errorf("%+v, %v", list, err)
	}

	_, err := w.ShareTemplate(t.Context(), other.tenant.ID, "py", true)
	want(t, "of the other", err, CodeNotFound)
	shared, err := w.ShareTemplate(t.Context(), one.tenant.ID, "py", true)
	if err != nil || !shared.Shared {
		t.Fatalf("%+v, %v", shared, err)
	}
	box := other.mustCreate(t, SandboxSpec{Template: "py"})
	if res := other.mustRun(t, box, "cat /f"); res.Stdout != "one" {
		t.Errorf("%+v", res)
	}
	if list, err := w.TemplatesOf(t.Context(), other.tenant.ID); err != nil || len(list) != 1 || !list[0].Foreign || list[0].WarmUp != nil {
		t.Errorf("%+v, %v", list, err)
	}
	want(t, "another's", other.RemoveTemplate(t.Context(), "py"), CodeDenied)
	// One's own goes before.
	other.mustTemplate(t, TemplateRequest{Name: "py", WarmUp: []string{"write /f other"}})
	if res := other.mustRun(t, other.mustCreate(t, SandboxSpec{Template: "py"}), "cat /f"); res.Stdout != "other" {
		t.Errorf("%+v", res)
	}
	if res := other.mustRun(t, other.mustCreate(t, SandboxSpec{Template: made.ID}), "cat /f"); res.Stdout != "one" {
		t.Errorf("%+v", res)
	}
	_, err = w.ShareTemplate(t.Context(), other.tenant.ID, "py", true)
	want(t, "two of one name", err, CodeConflict)
	// It stays shared in the next process, and what takes over its name is not.
	w.shut(t)
	w.reopen(t)
	third := w.tenantSession(t, "third")
	third.mustCreate(t, SandboxSpec{Template: "py"})
	one, err = w.OpenSession(t.Context(), one.tenant.ID, SessionSpec{})
	if err != nil {
		t.Fatal(err)
	}
	if next := one.mustTemplate(t, TemplateRequest{Name: "py"}); next.Shared {
		t.Errorf("%+v", next)
	}
	_, err = third.template(t, "py")
	want(t, "replaced", err, CodeNotFound)
	if err := errors.Join(w.RemoveTenant(t.Context(), one.tenant.ID), w.RemoveTenant(t.Context(), other.tenant.ID)); err != nil || len(k.Kept()) != 0 {
		t.Errorf("%v, %v", err, k.Kept())
	}
}

// The host's own are for whoever owns the host, where the runtime was told so.
func TestHostTemplates(t *testing.T) {
	w, k := keeping(t, func(c *Config) { c.HostTemplates = true })
	img, release, err := w.images.Resolve(t.Context(), "base")
	if err != nil {
		t.Fatal(err)
	}
	release()
	if _, err := k.CreateTemplate(t.Context(), sandbox.TemplateSpec{Name: "host", Spec: sandbox.Spec{Image: img, VCPUs: 1, MemoryMiB: 64, Processes: 16}}); err != nil {
		t.Fatal(err)
	}
	other := w.tenantSession(t, "other")
	other.mustTemplate(t, TemplateRequest{Name: "py"})
	if list, err := other.Templates(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	s := w.session(t, SessionSpec{})
	if list, err := s.Templates(t.Context()); err != nil || len(list) != 1 || list[0].ID != "host" || !list[0].Foreign {
		t.Errorf("%+v, %v", list, err)
	}
	info, err := s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Template: "host"}})
	if err != nil || info.MemoryMiB != 64 {
		t.Errorf("%+v, %v", info, err)
	}
	want(t, "the host's", s.RemoveTemplate(t.Context(), "host"), CodeDenied)
	_, err = other.template(t, "host")
	want(t, "the host's", err, CodeNotFound)
	w.shut(t)
	w.cfg.HostTemplates = false
	w.reopen(t)
	_, err = w.session(t, SessionSpec{}).template(t, "host")
	want(t, "not told", err, CodeNotFound)
}

// The making of a template costs what a sandbox does, and ends when something is used up.
func TestTemplateBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := keeping(t, nil)
		s := w.session(t, SessionSpec{Budget: Budget{Sandboxes: 1, MemoryMiB: 256, SandboxSeconds: 100, VCPUSeconds: 60, OutputBytes: 1000}})
		used := func(r Resource) int64 {
			for _, l := range s.Budget().Lines {
				if l.Resource == r {
					return l.Used
				}
			}
			return -1
		}
		k.OnStage = func(_ context.Context, stage sandbox.TemplateStage) error {
			if stage == sandbox.TemplateWrite {
				if used(Sandboxes) != 1 || used(MemoryMiB) != 128 {
					t.Errorf("while it is made: %+v", s.Budget())
				}
				time.Sleep(20 * time.Second)
			}
			return nil
		}
		_, err := s.CreateTemplate(t.Context(), TemplateRequest{Name: "big", MemoryMiB: 512})
		want(t, "too big", err, CodeBudget)
		s.mustTemplate(t, TemplateRequest{Name: "py", VCPUs: 2, MemoryMiB: 128, WarmUp: []string{"sleep 10; echo 12345"}})
		if used(Sandboxes) != 0 || used(MemoryMiB) != 0 || used(SandboxSeconds) != 30 || used(VCPUSeconds) != 20 || used(OutputBytes) != 6 {
			t.Errorf("%+v", s.Budget())
		}
		start := time.Now()
		_, err = s.CreateTemplate(t.Context(), TemplateRequest{Name: "py", VCPUs: 2, WarmUp: []string{"sleep 1000"}})
		if e := wantError(t, "used up", err, CodeBudget); e.Budget == nil || e.Budget.Resource != VCPUSeconds || time.Since(start) > 22*time.Second {
			t.Errorf("%v after %v", e, time.Since(start))
		}
		_, err = s.CreateTemplate(t.Context(), TemplateRequest{Name: "py"})
		want(t, "nothing left", err, CodeBudget)
		_, err = s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Template: "py"}})
		want(t, "nothing left", err, CodeBudget)
		if list, err := s.Templates(t.Context()); err != nil || len(list) != 1 || len(k.Kept()) != 1 {
			t.Errorf("%+v, %v, %v", list, err, k.Kept())
		}
		// Output, too.
		s = w.session(t, SessionSpec{Budget: Budget{OutputBytes: 1000}})
		_, err = s.CreateTemplate(t.Context(), TemplateRequest{Name: "loud", WarmUp: []string{"flood 2000; sleep 1000"}})
		want(t, "too loud", err, CodeBudget)
	})
}

// A caller that goes, and a session that is closed, end the making.
func TestTemplateCancelled(t *testing.T) {
	noLeaks(t)
	w, k := keeping(t, nil)
	s := w.session(t, SessionSpec{})
	ctx, cancel := context.WithCancel(t.Context())
	k.OnStage = func(_ context.Context, stage sandbox.TemplateStage) error {
		if stage == sandbox.TemplateWarmUp {
			cancel()
		}
		return nil
	}
	req := TemplateRequest{Name: "py", WarmUp: []string{"sleep 1000"}, Key: "k"}
	_, err := s.CreateTemplate(ctx, req)
	want(t, "cancelled", err, CodeCancelled)
	var once sync.Once
	k.OnStage = func(_ context.Context, stage sandbox.TemplateStage) error {
		if stage == sandbox.TemplateWarmUp {
			once.Do(func() { go func() { _ = s.Close() }() })
		}
		return nil
	}
	_, err = s.CreateTemplate(t.Context(), req)
	want(t, "closed", err, CodeGone)
	if len(k.Kept()) != 0 {
		t.Errorf("%v", k.Kept())
	}
}

// What was not finished goes at the next start, what was is there; of another runtime nothing is touched.
func TestTemplateRecovery(t *testing.T) {
	w, k := keeping(t, nil)
	s := w.session(t, SessionSpec{})
	kept, lost := s.mustTemplate(t, TemplateRequest{Name: "kept", WarmUp: []string{"write /f warm"}}), s.mustTemplate(t, TemplateRequest{Name: "lost"})
	noImage := s.mustTemplate(t, TemplateRequest{Name: "bare", Image: "other"})
	owner := w.owner
	spec := sandbox.Spec{Image: sandbox.Image{Digest: "sha256:x", Rootfs: "/nowhere"}, VCPUs: 1, MemoryMiB: 64, Processes: 16}
	for _, name := range []string{owner + ".tmaaaaaaaaaa", "rtaaaaaaaaaa.tmaaaaaaaaaa", "host"} {
		if _, err := k.CreateTemplate(t.Context(), sandbox.TemplateSpec{Name: name, Spec: spec}); err != nil {
			t.Fatal(err)
		}
	}
	w.shut(t)
	if err := k.RemoveTemplate(t.Context(), owner+"."+lost.ID); err != nil { // another one has its name
		t.Fatal(err)
	}
	if _, err := k.CreateTemplate(t.Context(), sandbox.TemplateSpec{Name: owner + "." + lost.ID, Spec: spec}); err != nil {
		t.Fatal(err)
	}
	w.images.Lose(noImage.Image)
	w.reopen(t)
	found := w.Recovered()
	if w.owner != owner || found.Templates != 2 || !slices.Equal(found.Lost, []string{lost.ID, "tmaaaaaaaaaa"}) && !slices.Equal(found.Lost, []string{"tmaaaaaaaaaa", lost.ID}) ||
		len(found.Notes) != 1 || !strings.Contains(found.Notes[0], noImage.ID) {
		t.Errorf("%+v", found)
	}
	if got := k.Kept(); len(got) != 4 || slices.Contains(got, owner+".tmaaaaaaaaaa") {
		t.Errorf("%v", got)
	}
	s = w.session(t, SessionSpec{})
	if info, err := s.template(t, "kept"); err != nil || info.ID != kept.ID || info.Digest != kept.Digest || len(info.WarmUp) != 1 {
		t.Errorf("%+v, %v", info, err)
	}
	if res := s.mustRun(t, s.mustCreate(t, SandboxSpec{Template: "kept"}), "cat /f"); res.Stdout != "warm" {
		t.Errorf("%+v", res)
	}
	_, err := s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Template: "bare"}})
	if e := wantError(t, "no image", err, CodeNotFound); !strings.Contains(e.Cause, "image") {
		t.Error(e)
	}
	if err := s.RemoveTemplate(t.Context(), "bare"); err != nil {
		t.Error(err)
	}
	// One whose removal fails can be removed later.
	k.OnRemove = func(string) error {
		return &sandbox.Error{Op: "remove template", Err: sandbox.ErrNoSpace, Detail: "not now", Remedy: "later"}
	}
	want(t, "failed", s.RemoveTemplate(t.Context(), "kept"), CodeNoSpace)
	k.OnRemove = nil
	if err := s.RemoveTemplate(t.Context(), "kept"); err != nil || len(k.Kept()) != 2 {
		t.Errorf("%v, %v", err, k.Kept())
	}
	// Without the system, its templates stay.
	stays := s.mustTemplate(t, TemplateRequest{Name: "stays"})
	w.shut(t)
	w.cfg.Drivers = []sandbox.Driver{runtimetest.New("docker")}
	w.reopen(t)
	_, err = w.session(t, SessionSpec{}).Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Template: "stays"}})
	want(t, "no driver", err, CodeUnavailable)
	w.shut(t)
	w.cfg.Drivers = []sandbox.Driver{k}
	w.reopen(t)
	if info, err := w.session(t, SessionSpec{}).template(t, "stays"); err != nil || info.ID != stays.ID {
		t.Errorf("%+v, %v", info, err)
	}
}

// Copies of a template are made ahead like other sandboxes, and go with it.
func TestTemplatePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := keeping(t, func(c *Config) { c.Pool = PoolConfig{Sandboxes: 3} })
		s := w.session(t, SessionSpec{})
		made := s.mustTemplate(t, TemplateRequest{Name: "py", WarmUp: []string{"write /f warm"}})
		for range 6 {
			s.mustCreate(t, SandboxSpec{Template: "py"})
			time.Sleep(3 * time.Second)
		}
		if st := w.Pool(); st.Hits == 0 || st.Ready == 0 {
			t.Fatalf("%+v", st)
		}
		hits := w.Pool().Hits
		box := s.mustCreate(t, SandboxSpec{Template: "py"})
		if info, err := s.Inspect(t.Context(), box); err != nil || info.Template != made.ID || w.Pool().Hits != hits+1 {
			t.Errorf("%+v, %v", info, err)
		}
		if res := s.mustRun(t, box, "cat /f"); res.Stdout != "warm" {
			t.Errorf("%+v", res)
		}
		// A new one of the name: what was ready is of the old one.
		s.mustTemplate(t, TemplateRequest{Name: "py", WarmUp: []string{"write /f newer"}})
		if st := w.Pool(); st.Ready != 0 {
			t.Errorf("%+v", st)
		}
		for range 6 {
			if res := s.mustRun(t, s.mustCreate(t, SandboxSpec{Template: "py"}), "cat /f"); res.Stdout != "newer" {
				t.Errorf("%+v", res)
			}
			time.Sleep(3 * time.Second)
		}
		if err := s.RemoveTemplate(t.Context(), "py"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if st := w.Pool(); st.Ready != 0 {
			t.Errorf("%+v", st)
		}
		if left, _ := w.d.Left(); left != s.Sandboxes() {
			t.Errorf("%d sandboxes are left, %d are the session's", left, s.Sandboxes())
		}
	})
}

// replacedKeeper has a template replaced when it is to be copied.
type replacedKeeper struct {
	*runtimetest.Keeper
	replace *func()
}

func (k replacedKeeper) ForkTemplate(ctx context.Context, name string, n int) ([]sandbox.Sandbox, error) {
	if f := *k.replace; f != nil {
		*k.replace = nil
		f()
	}
	return k.Keeper.ForkTemplate(ctx, name, n)
}

// A copy of a template that is replaced meanwhile is one of the new template, if it was asked for by name.
func TestCopyWhileItIsReplaced(t *testing.T) {
	var replace func()
	w := open(t, func(c *Config) {
		c.Drivers[0] = replacedKeeper{runtimetest.NewKeeper(c.Drivers[0].(*runtimetest.Driver)), &replace}
	})
	s := w.session(t, SessionSpec{})
	old := s.mustTemplate(t, TemplateRequest{Name: "py", WarmUp: []string{"write /f old"}})
	replace = func() { s.mustTemplate(t, TemplateRequest{Name: "py", WarmUp: []string{"write /f new"}}) }
	box := s.mustCreate(t, SandboxSpec{Template: "py"})
	if res := s.mustRun(t, box, "cat /f"); replace != nil || res.Stdout != "new" {
		t.Errorf("%+v", res)
	}
	now, err := s.template(t, "py")
	if err != nil || now.ID == old.ID {
		t.Fatalf("%+v, %v", now, err)
	}
	for _, name := range []string{now.ID, "py"} { // by ID it is gone, and so it is by name if nothing takes its place
		replace = func() {
			if name == "py" {
				if err := s.RemoveTemplate(t.Context(), "py"); err != nil {
					t.Error(err)
				}
				return
			}
			s.mustTemplate(t, TemplateRequest{Name: "py"})
		}
		_, err := s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Template: name}})
		want(t, name, err, CodeNotFound)
	}
	if n := w.Status().Sandboxes; n != 1 {
		t.Errorf("%d sandboxes", n)
	}
}
