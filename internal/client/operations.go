package client

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
	"github.com/aethervm/aether/sandbox"
)

const keyHeader = "Idempotency-Key"

// Whoami tells whose the client's requests are.
func (c *Client) Whoami(ctx context.Context) (w rest.Whoami, err error) {
	return w, c.do(ctx, http.MethodGet, path("whoami"), nil, nil, &w)
}

// Create makes a sandbox.
func (c *Client) Create(ctx context.Context, spec rest.Spec, key string) (sb rest.Sandbox, err error) {
	return sb, c.do(ctx, http.MethodPost, path("sandboxes"), nil, spec, &sb, keyHeader, key)
}

// Sandboxes lists those of the session, or of all sessions of the tenant if none was named.
func (c *Client) Sandboxes(ctx context.Context) ([]rest.Sandbox, error) {
	type page struct {
		Sandboxes []rest.Sandbox
		Next      string
	}
	return all(ctx, c, path("sandboxes"), nil, func(p page) ([]rest.Sandbox, string) { return p.Sandboxes, p.Next })
}

// Sandbox describes one.
func (c *Client) Sandbox(ctx context.Context, id string) (sb rest.Sandbox, err error) {
	return sb, c.do(ctx, http.MethodGet, path("sandboxes", id), nil, nil, &sb)
}

// EgressLog tells which flows of a sandbox were refused, and what its secrets were used for.
func (c *Client) EgressLog(ctx context.Context, id string) (log sandbox.EgressLog, err error) {
	return log, c.do(ctx, http.MethodGet, path("sandboxes", id, "egress"), nil, nil, &log)
}

// Audit lists the tenant's entries of the audit log, the newest first, at most limit; of one sandbox, unless its id is empty.
func (c *Client) Audit(ctx context.Context, id string, limit int) ([]rest.AuditEntry, error) {
	list, q := []rest.AuditEntry{}, url.Values{}
	if id != "" {
		q.Set("sandbox", id)
	}
	for {
		var page struct {
			Entries []rest.AuditEntry
			Next    string
		}
		q.Set("limit", strconv.Itoa(min(limit-len(list), 1000)))
		if err := c.do(ctx, http.MethodGet, path("audit"), q, nil, &page); err != nil {
			return nil, err
		}
		list = append(list, page.Entries...)
		if page.Next == "" || len(list) >= limit {
			return list, nil
		}
		q.Set("cursor", page.Next)
	}
}

// Kill ends a sandbox.
func (c *Client) Kill(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, path("sandboxes", id), nil, nil, nil)
}

// Fork copies a sandbox.
func (c *Client) Fork(ctx context.Context, id string, fork rest.Fork, key string) (f rest.Forked, err error) {
	return f, c.do(ctx, http.MethodPost, path("sandboxes", id, "fork"), nil, fork, &f, keyHeader, key)
}

// Run runs a program and waits for it, unless it is one for the background.
func (c *Client) Run(ctx context.Context, id string, run rest.Run, key string) (res runtime.RunResult, err error) {
	return res, c.do(ctx, http.MethodPost, path("sandboxes", id, "run"), nil, run, &res, keyHeader, key)
}

// Processes lists background processes, of one sandbox or, if id is empty, of all.
func (c *Client) Processes(ctx context.Context, id string) ([]rest.Process, error) {
	type page struct {
		Processes []rest.Process
		Next      string
	}
	q := url.Values{}
	if id != "" {
		q.Set("sandbox", id)
	}
	return all(ctx, c, path("processes"), q, func(p page) ([]rest.Process, string) { return p.Processes, p.Next })
}

// Poll tells how a process is, and what it wrote from the offsets on. It waits up to wait, at most 10 minutes, for
// something to come.
func (c *Client) Poll(ctx context.Context, process string, stdout, stderr int64, wait time.Duration) (res runtime.PollResult, err error) {
	q := url.Values{"stdout": {strconv.FormatInt(stdout, 10)}, "stderr": {strconv.FormatInt(stderr, 10)},
		"wait_s": {strconv.FormatFloat(wait.Seconds(), 'f', -1, 64)}}
	return res, c.do(ctx, http.MethodGet, path("processes", process), q, nil, &res)
}

// WriteStdin feeds a process any bytes; with last, its standard input ends.
func (c *Client) WriteStdin(ctx context.Context, process string, data []byte, last bool) error {
	body := map[string]any{"close": last}
	if len(data) > 0 {
		body["data"], body["encoding"] = base64.StdEncoding.EncodeToString(data), "base64"
	}
	return c.do(ctx, http.MethodPost, path("processes", process, "stdin"), nil, body, nil)
}

// Signal sends a signal to a process.
func (c *Client) Signal(ctx context.Context, process, signal string) (p rest.Process, err error) {
	return p, c.do(ctx, http.MethodPost, path("processes", process, "signal"), nil, map[string]string{"signal": signal}, &p)
}

// Snapshot saves a sandbox.
func (c *Client) Snapshot(ctx context.Context, id, name, key string) (info runtime.SnapshotInfo, err error) {
	return info, c.do(ctx, http.MethodPost, path("sandboxes", id, "snapshots"), nil, map[string]string{"name": name}, &info, keyHeader, key)
}

// Snapshots lists those of the tenant.
func (c *Client) Snapshots(ctx context.Context) ([]runtime.SnapshotInfo, error) {
	type page struct {
		Snapshots []runtime.SnapshotInfo
		Next      string
	}
	return all(ctx, c, path("snapshots"), nil, func(p page) ([]runtime.SnapshotInfo, string) { return p.Snapshots, p.Next })
}

// Restore makes a sandbox from a snapshot.
func (c *Client) Restore(ctx context.Context, snapshot string, restore rest.Restore, key string) (sb rest.Sandbox, err error) {
	return sb, c.do(ctx, http.MethodPost, path("snapshots", snapshot, "restore"), nil, restore, &sb, keyHeader, key)
}

// Rollback puts a sandbox back to a snapshot.
func (c *Client) Rollback(ctx context.Context, id, snapshot string) (sb rest.Sandbox, err error) {
	return sb, c.do(ctx, http.MethodPost, path("sandboxes", id, "rollback"), nil, map[string]string{"snapshot": snapshot}, &sb)
}

// RemoveSnapshot frees a snapshot.
func (c *Client) RemoveSnapshot(ctx context.Context, snapshot string) error {
	return c.do(ctx, http.MethodDelete, path("snapshots", snapshot), nil, nil, nil)
}

// Entries lists a directory, or describes a file.
func (c *Client) Entries(ctx context.Context, id, name string) ([]runtime.Entry, error) {
	type page struct {
		Entries []runtime.Entry
		Next    string
	}
	return all(ctx, c, path("sandboxes", id, "entries"), url.Values{"path": {name}}, func(p page) ([]runtime.Entry, string) { return p.Entries, p.Next })
}

// Download copies a file of a sandbox to w.
func (c *Client) Download(ctx context.Context, id, name string, w io.Writer) error {
	req, err := c.request(ctx, http.MethodGet, path("sandboxes", id, "files"), url.Values{"path": {name}}, nil)
	if err != nil {
		return err
	}
	res, err := c.send(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	_, err = io.Copy(w, res.Body)
	return err
}

// Upload writes a file of a sandbox from r, whole or not at all. mode 0 means 0644, or that of the file.
func (c *Client) Upload(ctx context.Context, id, name string, mode uint32, r io.Reader) (res runtime.WriteResult, err error) {
	q := url.Values{"path": {name}}
	if mode != 0 {
		q.Set("mode", fmt.Sprintf("%03o", mode))
	}
	return res, c.do(ctx, http.MethodPut, path("sandboxes", id, "files"), q, r, &res)
}

// CreateTenant makes a tenant, over the owner's socket.
func (c *Client) CreateTenant(ctx context.Context, t rest.NewTenant) (token rest.TenantToken, err error) {
	return token, c.do(ctx, http.MethodPost, path("tenants"), nil, t, &token)
}

// Tenants lists all, over the owner's socket.
func (c *Client) Tenants(ctx context.Context) ([]rest.Tenant, error) {
	type page struct {
		Tenants []rest.Tenant
		Next    string
	}
	return all(ctx, c, path("tenants"), nil, func(p page) ([]rest.Tenant, string) { return p.Tenants, p.Next })
}

// NewToken makes a new token for a tenant, over the owner's socket.
func (c *Client) NewToken(ctx context.Context, tenant string) (token rest.TenantToken, err error) {
	return token, c.do(ctx, http.MethodPost, path("tenants", tenant, "token"), nil, nil, &token)
}

// SetBudget gives a tenant another budget, over the owner's socket.
func (c *Client) SetBudget(ctx context.Context, tenant string, b rest.Budget) (t rest.Tenant, err error) {
	return t, c.do(ctx, http.MethodPut, path("tenants", tenant, "budget"), nil, b, &t)
}

// RemoveTenant removes a tenant with all that it has, over the owner's socket.
func (c *Client) RemoveTenant(ctx context.Context, tenant string) error {
	return c.do(ctx, http.MethodDelete, path("tenants", tenant), nil, nil, nil)
}

// Text is what a chunk holds.
func Text(c runtime.OutputChunk) ([]byte, error) {
	if c.Encoding == "base64" {
		return base64.StdEncoding.DecodeString(c.Text)
	}
	return []byte(c.Text), nil
}
