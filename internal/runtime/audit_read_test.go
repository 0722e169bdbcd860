package runtime

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

func TestAuditIsTheTenants(t *testing.T) {
	w := open(t, nil)
	var tenants []Tenant
	for _, name := range []string{"a", "b"} {
		tenant, _, err := w.CreateTenant(t.Context(), TenantSpec{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		tenants = append(tenants, tenant)
	}
	// The entries of a and b take turns.
	var ids []string
	for i := range 20 {
		s, err := w.OpenSession(t.Context(), tenants[i%2].ID, SessionSpec{ID: "s"})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, s.mustCreate(t, SandboxSpec{}))
		s.mustRun(t, ids[i], "echo "+strings.Repeat("long ", 40))
	}
	for limit := range 4 {
		var got []AuditEntry
		q := AuditQuery{Limit: limit}
		for {
			page, err := w.Audit(t.Context(), tenants[0].ID, q)
			if err != nil {
				t.Fatal(err)
			}
			if limit > 0 && len(page.Entries) > limit {
				t.Fatalf("%d entries, at most %d were asked for", len(page.Entries), limit)
			}
			got = append(got, page.Entries...)
			if q.Cursor = page.Next; page.Next == 0 {
				break
			}
		}
		if len(got) != 21 { // its session, and 10 times create and run
			t.Fatalf("limit %d: %d entries", limit, len(got))
		}
		for i, e := range got {
			if e.Tenant != tenants[0].ID || i > 0 && e.Seq >= got[i-1].Seq {
				t.Errorf("entry %d: %+v", i, e)
			}
		}
	}
	page, err := w.Audit(t.Context(), tenants[1].ID, AuditQuery{Sandbox: ids[3]})
	if err != nil || len(page.Entries) != 2 || page.Entries[0].Op != "run" || page.Entries[1].Op != "create" {
		t.Errorf("%+v, %v", page, err)
	}
	if page, err := w.Audit(t.Context(), tenants[1].ID, AuditQuery{Sandbox: ids[0]}); err != nil || len(page.Entries) != 0 {
		t.Errorf("entries of another tenant's sandbox: %+v, %v", page, err)
	}

	// A cursor that no page has given shows no more than one that was.
	for _, cursor := range []int64{1, 1000, 1001, 1002, 5000, math.MaxInt64} {
		page, err := w.Audit(t.Context(), tenants[1].ID, AuditQuery{Cursor: cursor})
		if err != nil {
			t.Errorf("cursor %d: %v", cursor, err)
		}
		for _, e := range page.Entries {
			if e.Tenant != tenants[1].ID {
				t.Errorf("cursor %d: %+v", cursor, e)
			}
		}
	}
	for _, bad := range []AuditQuery{{Cursor: -1}, {Limit: -1}, {Limit: auditPageMax + 1}} {
		_, err := w.Audit(t.Context(), tenants[1].ID, bad)
		want(t, fmt.Sprint(bad), err, CodeInvalid)
	}
	_, err = w.Audit(t.Context(), "te0", AuditQuery{})
	want(t, "no such tenant", err, CodeNotFound)
}

func TestAuditNeedsRead(t *testing.T) {
	w := open(t, nil)
	tenant, _, err := w.CreateTenant(t.Context(), TenantSpec{Name: "a", Capabilities: []Capability{CanExec}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Audit(t.Context(), tenant.ID, AuditQuery{})
	want(t, "without read", err, CodeDenied)
}

// One call looks through so much of the log, and says where to go on.
func TestAuditPageIsBounded(t *testing.T) {
	w := open(t, nil)
	s := w.session(t, SessionSpec{})
	id := s.mustCreate(t, SandboxSpec{})
	for range 50 {
		s.mustRun(t, id, "true")
	}
	q, pages, entries := AuditQuery{Limit: 10}, 0, 0
	for {
		page, err := w.audit.page(t.Context(), q, 1000, "", func(e *AuditEntry) bool { return e.Op == "create" })
		if err != nil {
			t.Fatal(err)
		}
		pages, entries = pages+1, entries+len(page.Entries)
		if q.Cursor = page.Next; page.Next == 0 {
			break
		}
	}
	if entries != 1 || pages < 10 {
		t.Errorf("%d entries in %d pages", entries, pages)
	}
	if page, err := (*auditLog)(nil).page(t.Context(), q, 1, "", nil); err != nil || len(page.Entries) != 0 {
		t.Errorf("without a log: %+v, %v", page, err)
	}
}
