package agenthost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/runtime"
)

// Client is one agent's connection. Its methods may be called concurrently.
type Client struct {
	session *sdk.ClientSession
	after   []func() error // what Close does besides
	observe func(request, reply string)
}

// Args are the arguments of a tool.
type Args map[string]any

// Use makes a client of a connection, which Close then closes.
func Use(session *sdk.ClientSession) *Client { return &Client{session: session} }

// Observe has f told of the arguments and the result of each call of a tool from now on, as JSON. It is not to be
// called while a call is going on; f may be called concurrently.
func (c *Client) Observe(f func(request, reply string)) { c.observe = f }

// Close closes the connection.
func (c *Client) Close() error {
	err := c.session.Close()
	for _, f := range c.after {
		err = errors.Join(err, f())
	}
	return err
}

// Raw calls a tool and returns its result as the JSON that was sent, also if the call failed: then err is
// a [*runtime.Error], as the result tells it. Other errors are of the protocol, and have no result.
func (c *Client) Raw(ctx context.Context, tool string, args Args) (raw json.RawMessage, err error) {
	res, err := c.session.CallTool(ctx, &sdk.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tool, err)
	}
	if raw, err = json.Marshal(res); err != nil {
		return nil, fmt.Errorf("%s: %w", tool, err)
	}
	if c.observe != nil {
		request, _ := json.Marshal(args) // it was sent already
		c.observe(string(request), string(raw))
	}
	if !res.IsError {
		return raw, nil
	}
	var out struct {
		StructuredContent struct{ Error *runtime.Error }
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return raw, fmt.Errorf("%s: the error cannot be read: %w", tool, err)
	}
	if out.StructuredContent.Error == nil {
		return raw, fmt.Errorf("%s: an error that has no code: %.400s", tool, raw)
	}
	return raw, out.StructuredContent.Error
}

// Call calls a tool and decodes its structured result into T. A call that failed is an error as of Raw.
func Call[T any](ctx context.Context, c *Client, tool string, args Args) (out T, err error) {
	raw, err := c.Raw(ctx, tool, args)
	if err != nil {
		return out, err
	}
	return Decode[T](raw)
}

// Decode reads the structured content of a result of Raw.
func Decode[T any](raw json.RawMessage) (T, error) {
	var res struct{ StructuredContent T }
	err := json.Unmarshal(raw, &res)
	return res.StructuredContent, err
}

// Resource reads a resource and returns what was sent.
func (c *Client) Resource(ctx context.Context, uri string) (json.RawMessage, error) {
	res, err := c.session.ReadResource(ctx, &sdk.ReadResourceParams{URI: uri})
	if err != nil {
		return nil, err
	}
	return json.Marshal(res)
}
