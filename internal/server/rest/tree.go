package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/aethervm/aether/internal/archive"
	"github.com/aethervm/aether/internal/runtime"
)

// TreeTrailer is the trailer of a tree that was downloaded: an archive.Report as JSON.
const TreeTrailer = "Aether-Report"

// maxTrailer bounds it, in bytes. Go's own client takes 4 KiB of all that follows a body.
const maxTrailer = 3 << 10

func (s *server) registerTrees(tags []string) {
	const tree = "/v1/sandboxes/{sandbox}/tree"
	tarball := map[string]*huma.MediaType{"application/x-tar": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}
	register(s, huma.Operation{OperationID: "download-tree", Method: http.MethodGet, Path: tree, Tags: tags,
		Summary: "A directory with all that it holds, as a tar stream",
		Description: "Names begin in the directory, itself as \".\". Permissions, links and times are kept, owners are not. Devices, pipes, sockets, and what cannot be read are left out; " +
			"the trailer " + TreeTrailer + " has a report. The names are the sandbox's word: unpack it as you would any archive of somebody else's.",
		Responses: ok(http.StatusOK, tarball)},
		func(ctx context.Context, in *OneFile) (*huma.StreamResponse, error) {
			session, err := s.find(ctx, in.Of, in.Sandbox)
			if err != nil {
				return nil, err
			}
			return &huma.StreamResponse{Body: func(hc huma.Context) {
				_, w := humago.Unwrap(hc)
				ctx, over := endable(ctx, w)
				defer over()
				h := w.Header()
				h.Set("Content-Type", "application/x-tar")
				h.Set("X-Content-Type-Options", "nosniff")
				h.Set("Cache-Control", "no-store")
				h.Set("Trailer", TreeTrailer)
				begun := &begun{ResponseWriter: w}
				report, err := session.DownloadTree(ctx, runtime.TreeRequest{Sandbox: in.Sandbox, Path: in.Path}, begun)
				if err != nil {
					if begun.wrote {
						panic(http.ErrAbortHandler) // the client must not take it for whole
					}
					h.Del("Trailer")
					problem(err).write(w)
					return
				}
				h.Set(TreeTrailer, trailer(report))
			}}, nil
		})

	type upload struct {
		OneFile
		Upload
	}
	type written struct{ Body archive.Report }
	put := huma.Operation{OperationID: "upload-tree", Method: http.MethodPut, Path: tree, Tags: tags, DefaultStatus: http.StatusOK,
		Summary: "Unpack a tar stream into a directory, which is made if there is none",
		Description: "Files replace files of the same name, each whole or not at all. A stream with a name that leads out of the directory is refused where that comes; " +
			"what cannot be made, as devices, is left out and reported.",
		Metadata: map[string]any{streams: true}}
	register(s, put, func(ctx context.Context, in *upload) (*written, error) {
		session, err := s.find(ctx, in.Of, in.Sandbox)
		if err == nil {
			var report archive.Report
			if report, err = session.UploadTree(ctx, runtime.TreeRequest{Sandbox: in.Sandbox, Path: in.Path}, in.body); err == nil {
				return &written{report}, nil
			}
		}
		in.abandon()
		return nil, err
	})
	s.api.OpenAPI().Paths[tree].Put.RequestBody = &huma.RequestBody{Required: true, Content: tarball}
}

// trailer is a report that is short enough for a header.
func trailer(r archive.Report) string {
	for {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if enc.Encode(r) != nil {
			return ""
		}
		if b.Len() <= maxTrailer || len(r.Skipped) == 0 {
			return strings.TrimSpace(b.String())
		}
		r.Skipped, r.SkippedMore = r.Skipped[:len(r.Skipped)-1], r.SkippedMore+1
	}
}
