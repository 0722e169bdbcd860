package rest

import (
	"testing"

	"github.com/aethervm/aether/internal/runtime"
)

func (s *site) testDiff(t *testing.T) {
	a, b := s.create(t), s.create(t)
	at := "/v1/sandboxes/" + a + "/diff?with=" + b
	if d := call[Diff](t, s, "GET", at, nil, 200); len(d.Changes) != 0 || d.Changes == nil || d.Next != "" || d.A != a || d.B != b || d.Memory == nil {
		t.Errorf("%+v", d)
	}
	call[any](t, s, "PUT", "/v1/sandboxes/"+b+"/files?path=/tmp/one%FF", "1", 200)
	call[any](t, s, "PUT", "/v1/sandboxes/"+b+"/files?path=/tmp/two", "2", 200)
	d := call[Diff](t, s, "GET", at+"&limit=1", nil, 200)
	if len(d.Changes) != 1 || d.Changes[0].PathBase64 == "" || d.Next == "" {
		t.Fatalf("%+v", d)
	}
	d = call[Diff](t, s, "GET", at+"&limit=1&cursor="+d.Next, nil, 200)
	if len(d.Changes) != 1 || d.Changes[0].Path != "/tmp/two" || d.Changes[0].B.Size != 1 || d.Changes[0].A != nil {
		t.Errorf("%+v", d)
	}
	s.refused(t, "GET", at+"&cursor=%25", nil, 422, runtime.CodeInvalid)
	s.refused(t, "GET", "/v1/sandboxes/"+a+"/diff?with="+a, nil, 422, runtime.CodeInvalid)
	s.refused(t, "GET", "/v1/sandboxes/"+a+"/diff?with=sbaaaaaaaaaa", nil, 404, runtime.CodeNotFound)
	snap := call[runtime.SnapshotInfo](t, s, "POST", "/v1/sandboxes/"+b+"/snapshots", nil, 201)
	call[any](t, s, "PUT", "/v1/sandboxes/"+b+"/files?path=/tmp/two", "22", 200)
	if d := call[Diff](t, s, "GET", "/v1/snapshots/"+snap.ID+"/diff?with="+b, nil, 200); len(d.Changes) != 1 || d.Changes[0].B.Size != 2 || d.A != snap.ID {
		t.Errorf("since a snapshot: %+v", d)
	}
	if d := call[Diff](t, s, "GET", "/v1/sandboxes/"+b+"/diff?with="+snap.ID, nil, 200); len(d.Changes) != 1 || d.Changes[0].B.Size != 1 {
		t.Errorf("back to a snapshot: %+v", d)
	}
	s.refused(t, "GET", "/v1/snapshots/snaaaaaaaaaa/diff?with="+b, nil, 404, runtime.CodeNotFound)
	s.refused(t, "GET", "/v1/snapshots/"+snap.ID+"/diff?with=sbaaaaaaaaaa", nil, 404, runtime.CodeNotFound)
	call[any](t, s, "DELETE", "/v1/snapshots/"+snap.ID, nil, 204)
	s.refused(t, "GET", "/v1/sandboxes/"+a+"/diff", nil, 422, runtime.CodeInvalid)
}
