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

func (s *server) registerDiff() {
	type query struct {
		OneSandbox
		With   string `query:"with" required:"true" maxLength:"64" doc:"the other one, B"`
		Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"1000" doc:"how many changes at most"`
		Cursor string `query:"cursor" maxLength:"5500" doc:"next of the part before"`
	}
	type diff struct{ Body Diff }
	register(s, huma.Operation{OperationID: "diff-sandbox", Method: http.MethodGet, Path: "/v1/sandboxes/{sandbox}/diff", Tags: []string{"sandboxes"},
		Summary: "How another sandbox of the same session, system and image differs from this one, A",
		Description: "Files that were added, removed and changed from A to B and, in the first part, how much memory both have written since they parted, " +
			"where the system knows. Both go on. With next set there may be more, also if there are no changes in this part. " +
			"Names are the sandboxes' own: they may hold control characters."},
		func(ctx context.Context, in *query) (*diff, error) {
			session, err := s.find(ctx, in.Of, in.Sandbox)
			if err != nil {
				return nil, err
			}
			after, err := base64.RawURLEncoding.DecodeString(in.Cursor)
			if err != nil {
				return nil, refuse(runtime.CodeInvalid, "diff", "begin again without one", "the cursor is none of a comparison")
			}
			res, err := session.Diff(ctx, runtime.DiffRequest{Sandbox: in.Sandbox, Other: in.With, After: string(after), Max: in.Limit})
			return &diff{Diff{res, base64.RawURLEncoding.EncodeToString([]byte(res.Next))}}, err
		})
}
