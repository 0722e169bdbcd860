package rest

import (
	"context"
	"encoding/base64"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aethervm/aether/internal/runtime"
)

// Diff is how two sandboxes differ, or a part of that.
type Diff struct {
	runtime.DiffResult
	Next string `json:"next,omitempty" doc:"the cursor of the next part, which is a comparison of its own"`
}

// Part is the part of a comparison that a request asks for.
type Part struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"1000" doc:"how many changes at most"`
	Cursor string `query:"cursor" maxLength:"5500" doc:"next of the part before"`
}

func (s *server) registerDiff() {
	type query struct {
		OneSandbox
		With string `query:"with" required:"true" maxLength:"64" doc:"the other one, B, or a snapshot"`
		Part
	}
	register(s, huma.Operation{OperationID: "diff-sandbox", Method: http.MethodGet, Path: "/v1/sandboxes/{sandbox}/diff", Tags: []string{"sandboxes"},
		Summary: "How another sandbox of the same session, system and image, or a snapshot, differs from this one, A",
		Description: "Files that were added, removed and changed from A to B and, in the first part, how much memory both have written since they parted, " +
			"where the system knows. Both go on. A snapshot is restored for each part, to a sandbox that nobody else sees. With next set there may be more, also if there are no changes in this part. " +
			"Names are the sandboxes' own: they may hold control characters."},
		func(ctx context.Context, in *query) (*diffBody, error) {
			session, err := s.find(ctx, in.Of, in.Sandbox)
			if err != nil {
				return nil, err
			}
			return part(ctx, session, in.Sandbox, in.With, in.Part)
		})
	type since struct {
		OneSnapshot
		With string `query:"with" required:"true" maxLength:"64" doc:"the sandbox, B"`
		Part
	}
	register(s, huma.Operation{OperationID: "diff-snapshot", Method: http.MethodGet, Path: "/v1/snapshots/{snapshot}/diff", Tags: []string{"snapshots"},
		Summary:     "How a sandbox of the same system and image differs from this snapshot, A: what has changed since",
		Description: "The snapshot is restored for each part, to a sandbox that nobody else sees; programs that it has go on meanwhile. The rest is as with two sandboxes."},
		func(ctx context.Context, in *since) (*diffBody, error) {
			session, err := s.find(ctx, in.Of, in.With)
			if err != nil {
				return nil, err
			}
			return part(ctx, session, in.Snapshot, in.With, in.Part)
		})
}

type diffBody struct{ Body Diff }

// part makes a part of a comparison.
func part(ctx context.Context, session *runtime.Session, a, b string, p Part) (*diffBody, error) {
	after, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	if err != nil {
		return nil, refuse(runtime.CodeInvalid, "diff", "begin again without one", "the cursor is none of a comparison")
	}
	res, err := session.Diff(ctx, runtime.DiffRequest{Sandbox: a, Other: b, After: string(after), Max: p.Limit})
	return &diffBody{Diff{res, base64.RawURLEncoding.EncodeToString([]byte(res.Next))}}, err
}
