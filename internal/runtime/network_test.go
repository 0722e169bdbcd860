package runtime

import (
	"slices"
	"strings"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

// TestEgressLimit has tenants name what the operator lets them, and nothing else.
func TestEgressLimit(t *testing.T) {
	w := open(t, func(c *Config) { c.Egress.Allow = []string{"*.example.org:443", "10.1.0.0/16"} })
	s := w.session(t, SessionSpec{Capabilities: allCapabilities()})
	create := func(s *Session, rules ...string) (SandboxInfo, error) {
		return s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Network: sandbox.NetworkOutbound, Egress: rules}})
	}
	for _, rule := range []string{"www.example.org:443", "10.1.2.3:5432", "10.1.0.0/16"} {
		if info, err := create(s, rule); err != nil || !slices.Equal(info.Egress, []string{rule}) {
			t.Errorf("%s: %+v, %v", rule, info, err)
		}
	}
	for _, rule := range []string{"*", "www.example.org", "example.com:443", "10.0.0.0/8", "192.168.1.1", "169.254.169.254:80", "8.8.8.8"} {
		_, err := create(s, "www.example.org:443", rule)
		if e := wantError(t, rule, err, CodeDenied); !strings.Contains(e.Cause, rule) {
			t.Error(e)
		}
	}
	_, err := create(s, "nonsense!")
	want(t, "no rule", err, CodeInvalid)
	// Without rules it is all that is allowed.
	info, err := create(s)
	if err != nil || !slices.Equal(info.Egress, w.cfg.Egress.Allow) {
		t.Errorf("%+v, %v", info, err)
	}
	snap, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: info.ID})
	if err != nil {
		t.Fatal(err)
	}
	w.shut(t)
	w.cfg.Egress.Allow = []string{"*.example.org:443"}
	w.reopen(t)
	s = w.session(t, SessionSpec{Capabilities: allCapabilities()})
	_, err = s.Restore(t.Context(), RestoreRequest{Snapshot: snap.ID})
	want(t, "restore with what is not allowed any more", err, CodeDenied)
	w.shut(t)
	// Who owns the host is not limited.
	w.cfg.Egress = EgressLimit{Unlimited: true}
	w.reopen(t)
	s = w.session(t, SessionSpec{Capabilities: allCapabilities()})
	if _, err := create(s, "192.168.1.1"); err != nil {
		t.Error(err)
	}
	if info, err := create(s); err != nil || len(info.Egress) != 0 {
		t.Errorf("%+v, %v", info, err)
	}
	w.shut(t)
	w.cfg.Egress = EgressLimit{Allow: []string{"169.254.169.254"}}
	_, err = Open(t.Context(), w.cfg)
	want(t, "metadata", err, CodeInvalid)
	w.cfg.Egress = EgressLimit{}
	w.reopen(t)
}

// TestRestoredNetworkIsLimited has a snapshot with a network without rules, taken where there was no limit, be restored
// where there is one.
func TestRestoredNetworkIsLimited(t *testing.T) {
	w := open(t, func(c *Config) { c.Egress.Unlimited = true })
	s := w.session(t, SessionSpec{Capabilities: allCapabilities()})
	snapshot := func(rules ...string) string {
		t.Helper()
		id := s.mustCreate(t, SandboxSpec{Network: sandbox.NetworkOutbound, Egress: rules})
		snap, err := s.Snapshot(t.Context(), SnapshotRequest{Sandbox: id})
		if err != nil {
			t.Fatal(err)
		}
		return snap.ID
	}
	all, some := snapshot(), snapshot("www.example.org:443")
	restore := func(id string) error {
		_, err := s.Restore(t.Context(), RestoreRequest{Snapshot: id})
		return err
	}
	if err := restore(all); err != nil {
		t.Error(err)
	}
	for _, allow := range [][]string{nil, {"*.example.org"}} {
		w.shut(t)
		w.cfg.Egress = EgressLimit{Allow: allow}
		w.reopen(t)
		s = w.session(t, SessionSpec{Capabilities: allCapabilities()})
		want(t, "a network without rules", restore(all), CodeDenied)
		if err := restore(some); err != nil {
			t.Error(err)
		}
	}
}

// TestPrivateNetworksAreDenied is the limit of a runtime that was told nothing.
func TestPrivateNetworksAreDenied(t *testing.T) {
	w := open(t, nil)
	s := w.session(t, SessionSpec{Capabilities: allCapabilities()})
	for _, rule := range []string{"10.0.0.1", "172.16.0.0/12", "192.168.0.0/16:80", "100.64.1.1", "169.254.169.254"} {
		_, err := s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Egress: []string{rule}}})
		want(t, rule, err, CodeDenied)
	}
	if _, err := s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Egress: []string{"pypi.org:443", "8.8.8.0/24"}}}); err != nil {
		t.Error(err)
	}
}

// TestCapabilitiesWithoutAsking are those that the runtime was opened with.
func TestCapabilitiesWithoutAsking(t *testing.T) {
	w := open(t, func(c *Config) { c.Capabilities = []Capability{CanRead, CanNetwork} })
	if s := w.session(t, SessionSpec{}); !slices.Equal(s.Capabilities(), w.cfg.Capabilities) {
		t.Errorf("%v", s.Capabilities())
	}
	tn, _, err := w.CreateTenant(t.Context(), TenantSpec{Name: "t"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := w.OpenSession(t.Context(), tn.ID, SessionSpec{})
	if err != nil || !slices.Equal(s.Capabilities(), []Capability{CanRead}) {
		t.Errorf("%v, %v", s.Capabilities(), err)
	}
}
