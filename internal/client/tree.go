package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/aethervm/aether/internal/archive"
	"github.com/aethervm/aether/internal/server/rest"
)

// DownloadTree copies a directory of a sandbox to w, as a tar stream whose names are the sandbox's word.
func (c *Client) DownloadTree(ctx context.Context, id, name string, w io.Writer) (report archive.Report, err error) {
	req, err := c.request(ctx, http.MethodGet, path("sandboxes", id, "tree"), url.Values{"path": {name}}, nil)
	if err != nil {
		return report, err
	}
	res, err := c.send(req)
	if err != nil {
		return report, err
	}
	defer func() { _ = res.Body.Close() }()
	if _, err := io.Copy(w, res.Body); err != nil {
		return report, cause(ctx, fmt.Errorf("read %s: %w", name, err))
	}
	// The trailer is there once the body was read.
	if err := json.Unmarshal([]byte(res.Trailer.Get(rest.TreeTrailer)), &report); err != nil {
		return report, fmt.Errorf("read %s: %w", name, errCut)
	}
	return report, nil
}

// UploadTree unpacks a tar stream into a directory of a sandbox, which is made if there is none.
func (c *Client) UploadTree(ctx context.Context, id, name string, r io.Reader) (report archive.Report, err error) {
	err = c.do(ctx, http.MethodPut, path("sandboxes", id, "tree"), url.Values{"path": {name}}, r, &report, "Content-Type", "application/x-tar")
	return report, err
}
