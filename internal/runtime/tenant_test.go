package runtime

import (
	"errors"
	"testing"

	"github.com/aethervm/aether/internal/runtime/runtimetest"
)

// A tenant that could not be removed whole can be tried again, and its token is none, also after a restart.
func TestTenantRemovedByHalf(t *testing.T) {
	var k *runtimetest.Keeper
	w := open(t, func(c *Config) {
		k = runtimetest.NewKeeper(c.Drivers[0].(*runtimetest.Driver))
		c.Drivers[0] = k
	})
	s := w.tenantSession(t, "team", allCapabilities()...)
	token, err := w.NewToken(t.Context(), s.tenant.ID)
	if err != nil {
		t.Fatal(err)
	}
	s.mustTemplate(t, TemplateRequest{Name: "py"})
	k.OnRemove = func(string) error { return errors.New("not now") }
	if err := w.RemoveTenant(t.Context(), s.tenant.ID); err == nil {
		t.Error("it was removed")
	}
	for _, when := range []string{"at once", "after a restart"} {
		_, err := w.Authenticate(t.Context(), token)
		_ = wantError(t, when, err, CodeUnauthenticated)
		w.shut(t)
		w.reopen(t)
	}
	k.OnRemove = nil
	if err := w.RemoveTenant(t.Context(), s.tenant.ID); err != nil || len(k.Kept()) != 0 {
		t.Errorf("%v, kept: %v", err, k.Kept())
	}
	_ = wantError(t, "once more", w.RemoveTenant(t.Context(), s.tenant.ID), CodeNotFound)
}
