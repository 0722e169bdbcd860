package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
)

// Diff compares two sandboxes, or a sandbox and a snapshot, by their IDs. It asks for one part after the other until there are limit changes; Next is then set if there
// may be more.
func (c *Client) Diff(ctx context.Context, a, b string, limit int) (d rest.Diff, err error) {
	const most = 1000 // of one part
	kind := "sandboxes"
	if runtime.IsSnapshotID(a) {
		kind = "snapshots"
	}
	q := url.Values{"with": {b}}
	for {
		q.Set("limit", strconv.Itoa(min(most, limit-len(d.Changes))))
		var part rest.Diff
		if err := c.do(ctx, http.MethodGet, path(kind, a, "diff"), q, nil, &part); err != nil {
			return rest.Diff{}, err
		}
		if d.Memory == nil {
			d.A, d.B, d.Memory = part.A, part.B, part.Memory
		}
		d.Changes = append(d.Changes, part.Changes...)
		d.Paths += part.Paths
		d.Skipped += part.Skipped
		if d.Next = part.Next; d.Next == "" || len(d.Changes) >= limit {
			return d, nil
		}
		q.Set("cursor", d.Next)
	}
}
