package mcp

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/runtime"
)

// The revisions of the protocol that are served. 2026-07-28 has no handshake and no sessions.
const (
	revisionSessions  = "2025-11-25"
	revisionStateless = "2026-07-28"
)

// instructions are what a client may tell its model about the server as a whole.
const instructions = `Isolated Linux sandboxes. run without a sandbox suits one command; create keeps one whose files and ` +
	`processes stay until kill. Paths are inside a sandbox. A failed call has error {code, cause, remedy}: do what remedy says.`

// Config is what a server is made with. All fields but Log are needed.
type Config struct {
	// Version is aether's own.
	Version string
	// Runtime ranks the systems.
	Runtime *runtime.Runtime
	// Session finds the session of whoever sent a request. It is called for every request.
	Session func(ctx context.Context, extra *sdk.RequestExtra) (*runtime.Session, error)
	// Log gets what nobody waits for; nil discards it.
	Log *slog.Logger
}

// New makes a server with all tools and resources. One server serves any number of clients.
func New(cfg Config) *sdk.Server {
	registry := tools()
	options := &sdk.ServerOptions{
		Instructions: instructions,
		Logger:       sdkLog(cfg.Log),
		// Lists do not change while a client is connected, but for the sandboxes among the resources, and
		// an agent knows those that it has made.
		Capabilities: &sdk.ServerCapabilities{
			Tools: &sdk.ToolCapabilities{}, Resources: &sdk.ResourceCapabilities{}, Prompts: &sdk.PromptCapabilities{},
			Logging: &sdk.LoggingCapabilities{}, //nolint:staticcheck // SA1019: clients of 2025-11-25 set a level and expect no error
		},
		SetCacheable: cacheable,
	}
	fixtureOptions(options)
	server := sdk.NewServer(implementation(cfg), options)
	for _, t := range registry {
		server.AddTool(t.sdk(), func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			progress := newProgress(ctx, req)
			defer progress.stop()
			return cfg.call(ctx, t, progress.add(), req.Extra, req.Params.Arguments), nil
		})
	}
	r := &resources{cfg: cfg}
	r.register(server)
	addFixtures(server)
	server.AddReceivingMiddleware(inOrder(registry), r.listing)
	return server
}

// implementation is what the server calls itself.
func implementation(cfg Config) *sdk.Implementation {
	return &sdk.Implementation{Name: "aether", Title: "aether", Version: cfg.Version}
}

// call calls a tool for whoever sent a request.
func (cfg Config) call(ctx context.Context, t tool, progress func(runtime.Progress), extra *sdk.RequestExtra, arguments json.RawMessage) *sdk.CallToolResult {
	session, err := cfg.Session(ctx, extra)
	if err != nil {
		return failure(err)
	}
	return t.call(ctx, call{session: session, progress: progress}, arguments)
}

// cacheable says how long a client of revision 2026-07-28 may keep an answer: the tools change with
// aether's version only, and what there is of sandboxes is one's own and changes at any time.
func cacheable(_ context.Context, req sdk.Request, c *sdk.Cacheable) {
	switch req.GetParams().(type) {
	case *sdk.ListResourcesParams, *sdk.ReadResourceParams:
		c.TTLMs, c.CacheScope = 0, "private"
	default:
		c.TTLMs, c.CacheScope = 3_600_000, "public"
	}
}

// inOrder lists the tools in the order of the registry, always the same one, so that a host's prompt
// cache holds.
func inOrder(registry []tool) sdk.Middleware {
	place := map[string]int{} // what is not in the registry comes last
	for i, t := range registry {
		place[t.name] = i - len(registry)
	}
	return func(next sdk.MethodHandler) sdk.MethodHandler {
		return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
			res, err := next(ctx, method, req)
			if list, ok := res.(*sdk.ListToolsResult); ok && err == nil {
				slices.SortStableFunc(list.Tools, func(a, b *sdk.Tool) int { return cmp.Compare(place[a.Name], place[b.Name]) })
			}
			return res, err
		}
	}
}

// failed is the structured content of a call that failed.
type failed struct {
	Error *runtime.Error `json:"error"`
}

// failure is a result with an error's code, cause and remedy.
func failure(err error) *sdk.CallToolResult {
	e := asError(err)
	return &sdk.CallToolResult{
		IsError: true, StructuredContent: failed{e}, Content: []sdk.Content{&sdk.TextContent{Text: errorText(e)}},
	}
}

func asError(err error) *runtime.Error {
	if e, ok := errors.AsType[*runtime.Error](err); ok {
		return e
	}
	// Every error of the runtime is of its own type. What is not may name files of the host.
	return &runtime.Error{Code: runtime.CodeInternal, Cause: "an unexpected error", Remedy: "its words are in the server's log", Err: err}
}

// errorText is an error for a model.
func errorText(e *runtime.Error) string {
	text := fmt.Sprintf("error %s: %s", e.Code, e.Cause)
	if e.Remedy != "" {
		text += "\nnext: " + e.Remedy
	}
	return text
}

// protocolError is an error of a request that is no call of a tool, such as the reading of a resource.
func protocolError(err error, uri string) error {
	e := asError(err)
	switch e.Code {
	case runtime.CodeNotFound, runtime.CodeGone:
		return sdk.ResourceNotFoundError(uri)
	case runtime.CodeInvalid:
		return &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: errorText(e)}
	}
	return &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: errorText(e)}
}
