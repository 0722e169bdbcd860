package runtime

import (
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/driver/all/drivertest"
	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// TestRealTemplates makes a template, copies it, finds it again in the next process, has another one take over its name, and
// removes it, on AetherVM.
func TestRealTemplates(t *testing.T) {
	testenv.Image(t)
	d := drivertest.Real(t, "aethervm", "REAL_KVM")
	keeper := d.(sandbox.Templater)
	store, err := image.Default()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{StateDir: t.TempDir(), Drivers: []sandbox.Driver{d}, Images: StoreImages(store)}
	r, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := (&world{Runtime: r}).session(t, SessionSpec{Budget: Budget{Sandboxes: 3, VCPUSeconds: 10_000}})
	var stages []string
	begin := time.Now()
	made := s.mustTemplate(t, TemplateRequest{Name: "py", MemoryMiB: 128, Env: []string{"OF=template"}, WarmUp: []string{
		"echo one >/root/point",
		"(n=0; while :; do n=$((n+1)); echo $n >/root/tick.new; mv /root/tick.new /root/tick; sleep 0.05; done) >/dev/null 2>&1 </dev/null &",
	}, Progress: func(p sandbox.TemplateProgress) {
		if n := len(stages); n == 0 || stages[n-1] != string(p.Stage) {
			stages = append(stages, string(p.Stage))
		}
	}})
	t.Logf("made in %v: %+v", time.Since(begin), made)
	if got := strings.Join(stages, " "); !strings.HasPrefix(got, "boot warm-up freeze write") || !strings.HasSuffix(got, "finish") || made.Bytes <= 0 {
		t.Errorf("%s, %+v", got, made)
	}
	if used := s.ledger.state().Lines; used[0].Used != 0 || used[1].Resource != VCPUSeconds || used[1].Used == 0 {
		t.Errorf("%+v", used)
	}
	ids := map[string]bool{}
	for range 2 {
		begin := time.Now()
		box := s.mustCreate(t, SandboxSpec{Template: "py"})
		t.Logf("copied after %v", time.Since(begin))
		res := s.mustRun(t, box, "cat /root/point; echo $OF; cat /proc/sys/kernel/random/uuid; a=$(cat /root/tick); for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.3; [ \"$a\" != \"$(cat /root/tick)\" ] && echo ticks && break; done")
		lines := strings.Split(res.Stdout, "\n")
		if len(lines) != 5 || lines[0] != "one" || lines[1] != "template" || lines[3] != "ticks" || ids[lines[2]] {
			t.Errorf("%q", res.Stdout)
			continue
		}
		ids[lines[2]] = true
	}
	_, err = s.CreateTemplate(t.Context(), TemplateRequest{Name: "py", WarmUp: []string{"echo it broke here; exit 3"}})
	if e := wantError(t, "warm-up", err, CodeInvalid); !strings.Contains(e.Cause, "it broke here") {
		t.Error(e)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}

	// The next process.
	if r, err = Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	if found := r.Recovered(); found.Templates != 1 || len(found.Lost) != 0 {
		t.Errorf("%+v", found)
	}
	s = (&world{Runtime: r}).session(t, SessionSpec{})
	box := s.mustCreate(t, SandboxSpec{Template: made.ID})
	if res := s.mustRun(t, box, "cat /root/point"); res.Stdout != "one\n" {
		t.Errorf("%+v", res)
	}
	if err := s.RemoveTemplate(t.Context(), "py"); err != nil {
		t.Error(err)
	}
	if res := s.mustRun(t, box, "cat /root/point"); res.Stdout != "one\n" { // it lives on
		t.Errorf("%+v", res)
	}
	kept, err := keeper.Templates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kept {
		if strings.HasPrefix(k.Name, r.owner) {
			t.Errorf("%s is left", k.Name)
		}
	}
	_, err = s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Template: "py"}})
	want(t, "removed", err, CodeNotFound)
}
