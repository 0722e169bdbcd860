package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aethervm/aether/internal/runtime"
)

// OneSnapshot is a request for one.
type OneSnapshot struct {
	Of
	Snapshot string `path:"snapshot" maxLength:"64"`
}

// NewSnapshot is what a snapshot is to be.
type NewSnapshot struct {
	Name string `json:"name,omitempty" maxLength:"64" doc:"for people; it need not be unique"`
}

// Restore is what a sandbox that is made from a snapshot is to be; the rest is as it was.
type Restore struct {
	TTLS   float64           `json:"ttl_s,omitempty" minimum:"0" maximum:"3e9" doc:"kill it so long after its creation; 0 is never"`
	Idle   Idle              `json:"idle,omitzero"`
	Labels map[string]string `json:"labels,omitempty"`
}

func (s *server) registerSnapshots() {
	tags := []string{"snapshots"}
	type one struct{ Body runtime.SnapshotInfo }
	type save struct {
		OneSandbox
		Keyed
		Body *NewSnapshot
	}
	register(s, huma.Operation{OperationID: "snapshot-sandbox", Method: http.MethodPost, Path: "/v1/sandboxes/{sandbox}/snapshots", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Save a sandbox, which goes on; the snapshot is the tenant's, and stays until it is removed"},
		func(ctx context.Context, in *save) (*one, error) {
			session, err := s.find(ctx, in.Of, in.Sandbox)
			if err != nil {
				return nil, err
			}
			info, err := session.Snapshot(ctx, runtime.SnapshotRequest{Sandbox: in.Sandbox, Name: value(in.Body).Name, Key: in.Key})
			return &one{info}, err
		})

	type list struct {
		Body struct {
			Snapshots []runtime.SnapshotInfo `json:"snapshots"`
			Next      string                 `json:"next,omitempty"`
		} `nameHint:"SnapshotList"`
	}
	register(s, huma.Operation{OperationID: "list-snapshots", Method: http.MethodGet, Path: "/v1/snapshots", Tags: tags,
		Summary: "The tenant's snapshots, in the order of their creation"},
		func(ctx context.Context, in *struct{ Page }) (*list, error) {
			t, all, err := s.snapshots(ctx)
			if err != nil {
				return nil, err
			}
			all, next, err := page(s.cursors, "snapshots", t.ID, in.Page, all, func(i runtime.SnapshotInfo) string { return at(i.Created, i.ID) })
			out := &list{}
			out.Body.Snapshots, out.Body.Next = all, next
			return out, err
		})
	register(s, huma.Operation{OperationID: "get-snapshot", Method: http.MethodGet, Path: "/v1/snapshots/{snapshot}", Tags: tags,
		Summary: "One snapshot"},
		func(ctx context.Context, in *OneSnapshot) (*one, error) {
			_, all, err := s.snapshots(ctx)
			if err != nil {
				return nil, err
			}
			for _, info := range all {
				if info.ID == in.Snapshot {
					return &one{info}, nil
				}
			}
			return nil, refuse(runtime.CodeNotFound, "find snapshot", "list shows the snapshots there are", "there is no snapshot %q", in.Snapshot)
		})
	register(s, huma.Operation{OperationID: "remove-snapshot", Method: http.MethodDelete, Path: "/v1/snapshots/{snapshot}", Tags: tags,
		Summary: "Remove a snapshot; sandboxes that were restored from it live on"},
		func(ctx context.Context, in *OneSnapshot) (*struct{}, error) {
			session, err := s.make(ctx, in.Of)
			if err != nil {
				return nil, err
			}
			return nil, session.RemoveSnapshot(ctx, in.Snapshot)
		})

	type made struct {
		Location string `header:"Location"`
		Body     Sandbox
	}
	type restore struct {
		OneSnapshot
		Keyed
		Body *Restore
	}
	register(s, huma.Operation{OperationID: "restore-snapshot", Method: http.MethodPost, Path: "/v1/snapshots/{snapshot}/restore", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Make a sandbox from a snapshot"},
		func(ctx context.Context, in *restore) (*made, error) {
			session, err := s.make(ctx, in.Of)
			if err != nil {
				return nil, err
			}
			body := value(in.Body)
			info, err := session.Restore(ctx, runtime.RestoreRequest{Snapshot: in.Snapshot, TTL: duration(body.TTLS), Idle: body.Idle.runtime(),
				Labels: body.Labels, Key: in.Key})
			return &made{"/v1/sandboxes/" + info.ID, Sandbox{info, session.ID()}}, err
		})
	type rollback struct {
		OneSandbox
		Body struct {
			Snapshot string `json:"snapshot" maxLength:"64"`
		} `nameHint:"Rollback"`
	}
	register(s, huma.Operation{OperationID: "roll-back-sandbox", Method: http.MethodPost, Path: "/v1/sandboxes/{sandbox}/rollback", Tags: tags,
		Summary: "Put a sandbox back to a snapshot; what runs in it ends"},
		func(ctx context.Context, in *rollback) (*sandboxBody, error) {
			session, err := s.find(ctx, in.Of, in.Sandbox)
			if err != nil {
				return nil, err
			}
			info, err := session.Rollback(ctx, runtime.RollbackRequest{Sandbox: in.Sandbox, Snapshot: in.Body.Snapshot})
			return &sandboxBody{Sandbox{info, session.ID()}}, err
		})
}

// snapshots are those of the tenant. To look at them opens no session.
func (s *server) snapshots(ctx context.Context) (runtime.Tenant, []runtime.SnapshotInfo, error) {
	t, err := tenant(ctx)
	if err != nil {
		return t, nil, err
	}
	all, err := s.rt.SnapshotsOf(t.ID)
	return t, all, err
}
