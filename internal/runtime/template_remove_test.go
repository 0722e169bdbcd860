package runtime

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

// ctxKeeper looks at its context, as a driver does that waits for a lock.
type ctxKeeper struct{ *runtimetest.Keeper }

func (k ctxKeeper) RemoveTemplate(ctx context.Context, name string) error {
	return errors.Join(ctx.Err(), k.Keeper.RemoveTemplate(ctx, name))
}

// A template that somebody removes who goes meanwhile is not left by half.
func TestTemplateRemovedByWhoLeaves(t *testing.T) {
	var k *runtimetest.Keeper
	w := open(t, func(c *Config) {
		k = runtimetest.NewKeeper(c.Drivers[0].(*runtimetest.Driver))
		c.Drivers[0] = ctxKeeper{k}
	})
	info := w.session(t, SessionSpec{}).mustTemplate(t, TemplateRequest{Name: "py"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.removeTemplate(ctx, info.ID); err != nil || len(k.Kept()) != 0 {
		t.Errorf("%v, kept: %v", err, k.Kept())
	}
}

// A removal that fails while a new template takes over the name does not bring the old one back: there is one of a name, and
// what is left of the old one goes as soon as it can, and is counted until then.
func TestTemplateOfOneName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := keeping(t, nil)
		team := w.team(t, Budget{Templates: 5})
		s := w.sessionOf(t, team.ID, Budget{})
		old := s.mustTemplate(t, TemplateRequest{Name: "py", WarmUp: []string{"write /f old"}})
		begun, let := make(chan struct{}), make(chan struct{})
		var first sync.Once
		var works atomic.Bool
		k.OnRemove = func(string) error {
			first.Do(func() {
				close(begun)
				<-let
			})
			if works.Load() {
				return nil
			}
			return errors.New("not now")
		}
		removed := make(chan error, 1)
		go func() { removed <- s.RemoveTemplate(t.Context(), "py") }()
		<-begun
		next := s.mustTemplate(t, TemplateRequest{Name: "py", WarmUp: []string{"write /f new"}})
		close(let)
		if err := <-removed; err != nil {
			t.Error(err)
		}
		if list, err := s.Templates(t.Context()); err != nil || len(list) != 1 || list[0].ID != next.ID || w.tenantUses(t, team.ID, Templates) != 2 {
			t.Errorf("%+v, %v, %d are counted", list, err, w.tenantUses(t, team.ID, Templates))
		}
		_, err := s.template(t, old.ID)
		want(t, "the old one", err, CodeNotFound)
		if res := s.mustRun(t, s.mustCreate(t, SandboxSpec{Template: "py"}), "cat /f"); res.Stdout != "new" {
			t.Errorf("%+v", res)
		}
		// The same for one that is replaced and cannot be removed.
		last := s.mustTemplate(t, TemplateRequest{Name: "py"})
		if list, err := s.Templates(t.Context()); err != nil || len(list) != 1 || list[0].ID != last.ID || w.tenantUses(t, team.ID, Templates) != 3 {
			t.Errorf("%+v, %v, %d are counted", list, err, w.tenantUses(t, team.ID, Templates))
		}
		time.Sleep(2 * clearEvery)
		if len(k.Kept()) != 3 {
			t.Errorf("%v", k.Kept())
		}
		works.Store(true)
		time.Sleep(clearEvery + tick)
		synctest.Wait()
		if kept := k.Kept(); len(kept) != 1 || !strings.HasSuffix(kept[0], last.ID) || w.tenantUses(t, team.ID, Templates) != 1 || len(w.remains) != 0 {
			t.Errorf("%v, %d are counted", kept, w.tenantUses(t, team.ID, Templates))
		}
	})
}

// While a driver is slow to remove what was replaced, others make, share and remove templates.
func TestSlowRemovalHoldsNobodyUp(t *testing.T) {
	w, k := keeping(t, nil)
	one, other := w.tenantSession(t, "one"), w.tenantSession(t, "other")
	old := one.mustTemplate(t, TemplateRequest{Name: "py"})
	begun, let := make(chan struct{}), make(chan struct{})
	k.OnRemove = func(name string) error {
		if strings.HasSuffix(name, old.ID) {
			close(begun)
			<-let
		}
		return nil
	}
	made := make(chan error, 1)
	go func() {
		_, err := one.CreateTemplate(t.Context(), TemplateRequest{Name: "py"})
		made <- err
	}()
	<-begun
	done := make(chan error, 1)
	go func() {
		_, err := other.CreateTemplate(t.Context(), TemplateRequest{Name: "py"})
		if err == nil {
			_, err = w.ShareTemplate(t.Context(), other.tenant.ID, "py", true)
		}
		done <- errors.Join(err, other.RemoveTemplate(t.Context(), "py"))
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("another tenant has waited for it")
	}
	close(let)
	if err := <-made; err != nil {
		t.Error(err)
	}
}

// A template that its driver cannot read when the runtime is opened stays, and can be copied as soon as it is there again.
func TestTemplateUnreadForAMoment(t *testing.T) {
	w, k := keeping(t, nil)
	team := w.team(t, Budget{Templates: 5})
	s := w.sessionOf(t, team.ID, Budget{})
	made := s.mustTemplate(t, TemplateRequest{Name: "py", WarmUp: []string{"write /f warm"}})
	name := w.owner + "." + made.ID
	w.shut(t)
	k.Hidden = []string{name}
	w.reopen(t)
	if found := w.Recovered(); found.Templates != 1 || len(found.Lost) != 0 || len(found.Notes) != 1 || !strings.Contains(found.Notes[0], made.ID) {
		t.Errorf("%+v", found)
	}
	s = w.sessionOf(t, team.ID, Budget{})
	_, err := s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Template: "py"}})
	if e := wantError(t, "it cannot be read", err, CodeNotFound); !strings.Contains(e.Remedy, "later") || w.tenantUses(t, team.ID, Templates) != 1 {
		t.Errorf("%+v", e)
	}
	k.Hidden = nil
	for range 2 {
		if res := s.mustRun(t, s.mustCreate(t, SandboxSpec{Template: "py"}), "cat /f"); res.Stdout != "warm" {
			t.Errorf("%+v", res)
		}
	}
	if !slices.Equal(k.Kept(), []string{name}) || w.templates[made.ID].unseen {
		t.Errorf("%v", k.Kept())
	}
	// What has its name, but another content, is not it.
	w.shut(t)
	k.Hidden = []string{name}
	w.reopen(t)
	k.Hidden = nil
	if err := k.RemoveTemplate(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	spec := sandbox.Spec{Image: sandbox.Image{Digest: "sha256:x", Rootfs: "/nowhere"}, VCPUs: 1, MemoryMiB: 64, Processes: 16}
	if _, err := k.CreateTemplate(t.Context(), sandbox.TemplateSpec{Name: name, Spec: spec}); err != nil {
		t.Fatal(err)
	}
	s = w.sessionOf(t, team.ID, Budget{})
	_, err = s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Template: "py"}})
	want(t, "another content", err, CodeNotFound)
	// One that is gone for good can be removed.
	if err := k.RemoveTemplate(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveTemplate(t.Context(), "py"); err != nil || w.tenantUses(t, team.ID, Templates) != 0 {
		t.Errorf("%v", err)
	}
}

// bigKeeper says that its templates take more than anybody has foreseen.
type bigKeeper struct{ *runtimetest.Keeper }

func (k bigKeeper) CreateTemplate(ctx context.Context, spec sandbox.TemplateSpec) (sandbox.Template, error) {
	t, err := k.Keeper.CreateTemplate(ctx, spec)
	t.Bytes = 1 << 30
	return t, err
}

// A template that is not whole and cannot be removed, from its making or found at the beginning, is removed when it can, and is
// counted until then.
func TestTemplateThatIsNotWholeStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k *runtimetest.Keeper
		w := open(t, func(c *Config) {
			k = runtimetest.NewKeeper(c.Drivers[0].(*runtimetest.Driver))
			c.Drivers[0] = bigKeeper{k}
		})
		team := w.team(t, Budget{Templates: 5})
		s := w.sessionOf(t, team.ID, Budget{})
		changed := s.mustTemplate(t, TemplateRequest{Name: "changed"})
		var works atomic.Bool
		k.OnRemove = func(string) error {
			if works.Load() {
				return nil
			}
			return errors.New("not now")
		}
		is := func(what string, kept, counted int) {
			t.Helper()
			if n := w.tenantUses(t, team.ID, Templates); len(k.Kept()) != kept || n != int64(counted) {
				t.Errorf("%s: %v, %d are counted", what, k.Kept(), n)
			}
		}
		if _, err := w.SetBudget(t.Context(), team.ID, Budget{Templates: 5, KeptBytes: 2<<30 - 1}); err != nil {
			t.Fatal(err)
		}
		_, err := s.CreateTemplate(t.Context(), TemplateRequest{Name: "big"})
		want(t, "too big", err, CodeBudget)
		is("refused", 2, 2)
		works.Store(true)
		time.Sleep(clearEvery + tick)
		synctest.Wait()
		is("it can be removed", 1, 1)

		// One that is in no record, and one that is another than the record says.
		w.shut(t)
		name := w.owner + "." + changed.ID
		spec := sandbox.Spec{Image: sandbox.Image{Digest: "sha256:x", Rootfs: "/nowhere"}, VCPUs: 1, MemoryMiB: 64, Processes: 16}
		for _, name := range []string{name, w.owner + ".tmaaaaaaaaaa"} {
			if _, err := k.CreateTemplate(t.Context(), sandbox.TemplateSpec{Name: name, Spec: spec}); err != nil {
				t.Fatal(err)
			}
		}
		works.Store(false)
		w.reopen(t)
		is("found", 2, 1)
		if found := w.Recovered(); len(found.Lost) != 2 || len(found.Notes) != 2 {
			t.Errorf("%+v", found)
		}
		works.Store(true)
		time.Sleep(clearEvery + tick)
		synctest.Wait()
		is("both can be removed", 0, 0)
	})
}
