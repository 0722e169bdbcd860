package mcp

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

// counted is a driver that knows how many programs run.
type counted struct {
	*runtimetest.Driver
	running atomic.Int64
}

func (d *counted) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	box, err := d.Driver.Create(ctx, spec)
	if err != nil {
		return nil, err
	}
	return countedBox{box, d}, nil
}

type countedBox struct {
	sandbox.Sandbox
	d *counted
}

func (b countedBox) Exec(ctx context.Context, cmd sandbox.Cmd) (sandbox.Exit, error) {
	b.d.running.Add(1)
	defer b.d.running.Add(-1)
	return b.Sandbox.Exec(ctx, cmd)
}

// waitFor waits until n programs run.
func (d *counted) waitFor(t *testing.T, n int64) {
	t.Helper()
	for range 200 {
		if d.running.Load() == n {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%d programs run, want %d", d.running.Load(), n)
}

// newRuntime is a runtime over a system in memory.
func newRuntime(t *testing.T, limits runtime.Limits) (*runtime.Runtime, *counted) {
	t.Helper()
	driver := &counted{Driver: runtimetest.New("docker")}
	return openRuntime(t, driver, limits), driver
}

func openRuntime(t *testing.T, driver sandbox.Driver, limits runtime.Limits) *runtime.Runtime {
	t.Helper()
	rt, err := runtime.Open(t.Context(), runtime.Config{
		StateDir: filepath.Join(t.TempDir(), "state"), Drivers: []sandbox.Driver{driver}, Images: &runtimetest.Images{}, System: driver.System(), Limits: limits,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
		if err := driver.Close(); err != nil {
			t.Error(err)
		}
	})
	return rt
}

func localSession(t *testing.T, rt *runtime.Runtime, more ...runtime.Capability) *runtime.Session {
	t.Helper()
	tenant, err := rt.Local(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	session, err := rt.OpenSession(t.Context(), tenant.ID, runtime.SessionSpec{Capabilities: append(runtime.DefaultCapabilities(), more...)})
	if err != nil {
		t.Fatal(err)
	}
	return session
}

// client is a client of the SDK that checks what it gets.
type client struct {
	*sdk.ClientSession
	t       *testing.T
	driver  *counted
	outputs map[string]any // output schemas by tool

	mu       sync.Mutex
	progress []*sdk.ProgressNotificationParams
}

func connect(t *testing.T, transport sdk.Transport) *client {
	t.Helper()
	c := &client{t: t, outputs: map[string]any{}}
	session, err := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, &sdk.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, req *sdk.ProgressNotificationClientRequest) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.progress = append(c.progress, req.Params)
		},
	}).Connect(t.Context(), transport, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close() })
	c.ClientSession = session
	list, err := session.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range list.Tools {
		c.outputs[tool.Name] = tool.OutputSchema
	}
	return c
}

// inMemory connects a client to a server over a runtime of its own.
func inMemory(t *testing.T, limits runtime.Limits) *client {
	t.Helper()
	rt, driver := newRuntime(t, limits)
	c := over(t, rt)
	c.driver = driver
	return c
}

func over(t *testing.T, rt *runtime.Runtime, more ...runtime.Capability) *client {
	t.Helper()
	session := localSession(t, rt, more...)
	server := New(Config{Version: "test", Runtime: rt, Session: func(context.Context, *sdk.RequestExtra) (*runtime.Session, error) {
		return session, nil
	}})
	near, far := sdk.NewInMemoryTransports()
	if _, err := server.Connect(t.Context(), near, nil); err != nil {
		t.Fatal(err)
	}
	return connect(t, far)
}

type args = map[string]any

// call calls a tool. Whatever comes back conforms to the tool's output schema and has text for a model.
func (c *client) call(tool string, a args) *sdk.CallToolResult {
	c.t.Helper()
	res, err := c.CallTool(c.t.Context(), &sdk.CallToolParams{Name: tool, Arguments: a})
	if err != nil {
		c.t.Fatalf("%s: %v", tool, err)
	}
	c.check(tool, res)
	return res
}

func (c *client) check(tool string, res *sdk.CallToolResult) {
	c.t.Helper()
	checkOutput(c.t, tool, c.outputs[tool], res.StructuredContent)
	if text(res) == "" {
		c.t.Errorf("%s has no text", tool)
	}
	raw, err := json.Marshal(res)
	if err != nil {
		c.t.Fatal(err)
	}
	if strings.Contains(string(raw), "/tmp/Test") || strings.Contains(string(raw), "runtimetest") {
		c.t.Errorf("%s tells a path of the host: %s", tool, raw)
	}
}

// must is call for what has to succeed. It decodes the structured content into T.
func must[T any](c *client, tool string, a args) T {
	c.t.Helper()
	res := c.call(tool, a)
	if res.IsError {
		c.t.Fatalf("%s %v: %s", tool, a, text(res))
	}
	return structured[T](c.t, res)
}

// refused is refusal for who wants to know no more.
func (c *client) refused(code runtime.Code, tool string, a args) {
	c.t.Helper()
	_ = c.refusal(code, tool, a)
}

// refusal is call for what has to fail with a code.
func (c *client) refusal(code runtime.Code, tool string, a args) *runtime.Error {
	c.t.Helper()
	res := c.call(tool, a)
	e := structured[failed](c.t, res).Error
	if !res.IsError || e == nil || e.Code != code || e.Cause == "" {
		c.t.Fatalf("%s %v: %+v, want %s; %s", tool, a, e, code, text(res))
	}
	return e
}

func structured[T any](t *testing.T, res *sdk.CallToolResult) (out T) {
	t.Helper()
	raw, err := json.Marshal(res.StructuredContent)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return out
}

func text(res *sdk.CallToolResult) string {
	if len(res.Content) == 0 {
		return ""
	}
	if t, ok := res.Content[0].(*sdk.TextContent); ok {
		return t.Text
	}
	return ""
}
