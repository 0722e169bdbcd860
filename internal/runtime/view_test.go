package runtime

import (
	"slices"
	"testing"
)

func TestViewTokens(t *testing.T) {
	w := open(t, nil)
	tn, token, err := w.CreateTenant(t.Context(), TenantSpec{Name: "t"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := w.NewViewToken(t.Context(), tn.ID)
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.NewViewToken(t.Context(), tn.ID)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.View(t.Context(), first)
	want(t, "a former one", err, CodeUnauthenticated)
	_, err = w.Authenticate(t.Context(), second)
	want(t, "one that only shows, to act", err, CodeUnauthenticated)
	_, err = w.View(t.Context(), token)
	want(t, "one to act, to look", err, CodeUnauthenticated)
	if _, err := w.NewToken(t.Context(), tn.ID); err != nil {
		t.Fatal(err)
	}
	view := func() {
		t.Helper()
		if got, err := w.View(t.Context(), second); err != nil || got.ID != tn.ID || !slices.Equal(got.Capabilities, []Capability{CanRead}) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	view() // a new token to act leaves it
	w.shut(t)
	w.reopen(t)
	view()
	if got, err := w.Tenants(t.Context()); err != nil || len(got[0].Capabilities) != 3 {
		t.Errorf("the tenant itself is %+v, %v", got, err)
	}

	mute, _, err := w.CreateTenant(t.Context(), TenantSpec{Name: "mute", Capabilities: []Capability{CanExec}})
	if err != nil {
		t.Fatal(err)
	}
	blind, err := w.NewViewToken(t.Context(), mute.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := w.View(t.Context(), blind); err != nil || len(got.Capabilities) != 0 {
		t.Errorf("of a tenant that may not read: %+v, %v", got, err)
	}
	_, err = w.NewViewToken(t.Context(), "te0")
	want(t, "no such tenant", err, CodeNotFound)
}
