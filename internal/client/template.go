package client

import (
	"context"
	"encoding/json"
	"io"
	"net/http"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
	"github.com/aethervm/aether/sandbox"
)

// TemplateStreams get what is told while a template is made. Each may be nil; all are called by one goroutine.
type TemplateStreams struct {
	Progress       func(sandbox.TemplateProgress)
	Stdout, Stderr io.Writer // what the programs of the warm-up write
}

// CreateTemplate makes a template. When ctx ends before the end, there is none.
func (c *Client) CreateTemplate(ctx context.Context, t rest.NewTemplate, key string, to TemplateStreams) (info runtime.TemplateInfo, err error) {
	req, err := c.request(ctx, http.MethodPost, path("templates"), nil, t)
	if err != nil {
		return info, err
	}
	req.Header.Set("Accept", "text/event-stream")
	if key != "" {
		req.Header.Set(keyHeader, key)
	}
	res, err := c.send(req)
	if err != nil {
		return info, err
	}
	defer func() { _ = res.Body.Close() }()
	err = readEvents(res.Body, func(name string, data []byte) (done bool, err error) {
		switch name {
		case "result":
			return true, json.Unmarshal(data, &info)
		case "progress":
			var p sandbox.TemplateProgress
			if err := json.Unmarshal(data, &p); err != nil || to.Progress == nil {
				return false, err
			}
			to.Progress(p)
		case string(runtime.Stdout):
			return false, writeChunk(to.Stdout, data)
		case string(runtime.Stderr):
			return false, writeChunk(to.Stderr, data)
		}
		return false, nil
	})
	return info, cause(ctx, err)
}

// Templates lists those that the tenant may copy.
func (c *Client) Templates(ctx context.Context) ([]runtime.TemplateInfo, error) {
	type page struct {
		Templates []runtime.TemplateInfo
		Next      string
	}
	return all(ctx, c, path("templates"), nil, func(p page) ([]runtime.TemplateInfo, string) { return p.Templates, p.Next })
}

// RemoveTemplate frees a template, by ID or name.
func (c *Client) RemoveTemplate(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, path("templates", name), nil, nil, nil)
}

// ShareTemplate lets all tenants copy a template, or no more, over the owner's socket.
func (c *Client) ShareTemplate(ctx context.Context, name string, shared bool) (info runtime.TemplateInfo, err error) {
	return info, c.do(ctx, http.MethodPut, path("templates", name, "sharing"), nil, map[string]bool{"shared": shared}, &info)
}
