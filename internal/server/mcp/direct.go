package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/auth"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/server/access"
)

const (
	methodCall = "tools/call"
	typeJSON   = "application/json"
	typeEvents = "text/event-stream"

	// directNesting bounds how deep a request that direct decodes may be nested, by all brackets that are in it.
	directNesting = 1000
)

// direct answers calls of tools in revision 2026-07-28, where a request stands for itself. The SDK makes a session of
// the protocol for each, with goroutines of its own, decodes the request six times and the tool's schema once: that is
// more than the rest of a call costs. Here it is decoded once, and answered with plain JSON by the goroutine that has
// read it.
//
// It takes a request only if nothing about it is unusual. All others are the SDK's, those that are to be refused among
// them, and those that want notifications, which need a stream of events.
type direct struct {
	tools  map[string]tool
	cfg    Config
	server *sdk.Implementation
	log    *slog.Logger
	sdk    http.Handler
}

func newDirect(cfg Config, registry []tool, sdk http.Handler) *direct {
	d := &direct{tools: map[string]tool{}, cfg: cfg, server: implementation(cfg), log: sdkLog(cfg.Log), sdk: sdk}
	for _, t := range registry {
		d.tools[t.name] = t
	}
	return d
}

// directCall is a request that direct answers.
type directCall struct {
	id        any // a string, or an int64
	tool      tool
	arguments json.RawMessage
}

func (d *direct) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !d.takes(r) {
		d.sdk.ServeHTTP(w, r)
		return
	}
	body, err := readBody(r)
	c, ok := directCall{}, false
	if err == nil {
		c, ok = d.parse(r.Header.Get("Mcp-Name"), body)
	}
	if !ok {
		r.Body = readAgain(r.Body, body, err)
		d.sdk.ServeHTTP(w, r)
		return
	}
	ctx := r.Context() // ends with the connection
	res := d.cfg.call(ctx, c.tool, nil, &sdk.RequestExtra{TokenInfo: auth.TokenInfoFromContext(ctx), Header: r.Header}, c.arguments)
	d.answer(ctx, w, c.id, res)
}

// takes tells whether a request may be one that direct answers, by its headers.
func (d *direct) takes(r *http.Request) bool {
	h := r.Header
	return r.Method == http.MethodPost && h.Get("Mcp-Protocol-Version") == revisionStateless && h.Get("Mcp-Method") == methodCall &&
		h.Get("Content-Type") == typeJSON && acceptsBoth(h.Values("Accept")) && h.Values("Last-Event-ID") == nil &&
		(access.Local(r) || !overLoopback(r))
}

// acceptsBoth tells whether a client takes what the revision says that it must, plain JSON and a stream of events.
func acceptsBoth(accept []string) bool {
	var plain, events bool
	for _, value := range accept {
		for kind := range strings.SplitSeq(value, ",") {
			kind = strings.TrimSpace(kind)
			plain, events = plain || kind == typeJSON, events || kind == typeEvents
		}
	}
	return plain && events
}

// overLoopback tells whether a request came over the loopback interface.
func overLoopback(r *http.Request) bool {
	at, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return !ok || at.IP.IsLoopback()
}

var errTooLong = errors.New("mcp: the request is too long")

// readBody reads a request's body, up to requestSize. Whatever the error, it returns what it has read.
func readBody(r *http.Request) ([]byte, error) {
	var b bytes.Buffer
	if n := r.ContentLength; n > 0 {
		b.Grow(int(min(n, 64<<10)) + bytes.MinRead)
	}
	n, err := b.ReadFrom(io.LimitReader(r.Body, requestSize+1))
	if err == nil && n > requestSize {
		err = errTooLong
	}
	return b.Bytes(), err
}

// readAgain is a body of which read was read, up to an error or not.
func readAgain(body io.ReadCloser, read []byte, err error) io.ReadCloser {
	var rest io.Reader = body
	if err != nil && !errors.Is(err, errTooLong) {
		rest = failing{err}
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(read), rest), body}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// parse reads a request whose headers name a tool. It is false for whatever is not just as the revision says, or has what
// only the SDK knows to handle.
func (d *direct) parse(name string, body []byte) (c directCall, ok bool) {
	t, ok := d.tools[name]
	if !ok {
		return c, false
	}
	if bytes.Count(body, []byte("{"))+bytes.Count(body, []byte("[")) > directNesting {
		return c, false
	}
	// Maps, since the names of fields are matched without regard to case otherwise.
	message, ok := fieldsOf(body, "jsonrpc", "id", "method", "params")
	if !ok || !is(message["jsonrpc"], "2.0") || !is(message["method"], methodCall) {
		return c, false
	}
	if c.id, ok = idOf(message["id"]); !ok {
		return c, false
	}
	params, ok := fieldsOf(message["params"], "name", "arguments", "_meta")
	if !ok || !is(params["name"], name) {
		return c, false
	}
	meta, ok := fieldsOf(params["_meta"])
	if !ok || !is(meta[sdk.MetaKeyProtocolVersion], revisionStateless) {
		return c, false
	}
	if meta["progressToken"] != nil {
		return c, false
	}
	if info, ok := meta[sdk.MetaKeyClientInfo]; ok && !decodes[*sdk.Implementation](info) {
		return c, false
	}
	if !decodes[*sdk.ClientCapabilities](meta[sdk.MetaKeyClientCapabilities]) {
		return c, false
	}
	c.tool, c.arguments = t, params["arguments"]
	return c, true
}

// fieldsOf are the fields of a JSON object, which are to be among those that are named, if any is.
func fieldsOf(raw json.RawMessage, names ...string) (fields map[string]json.RawMessage, ok bool) {
	if json.Unmarshal(raw, &fields) != nil || fields == nil {
		return nil, false
	}
	for name := range fields {
		if len(names) > 0 && !slices.Contains(names, name) {
			return nil, false
		}
	}
	return fields, true
}

// idOf is the ID of a request: a string, or an integer that every decoder reads alike.
func idOf(raw json.RawMessage) (any, bool) {
	var text *string
	if json.Unmarshal(raw, &text) == nil && text != nil {
		return *text, true
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	const exact = 1 << 53 // what a float64 holds
	return n, err == nil && -exact < n && n < exact
}

// is tells whether raw is that string.
func is(raw json.RawMessage, want string) bool {
	var s *string
	return json.Unmarshal(raw, &s) == nil && s != nil && *s == want
}

// decodes tells whether raw is a T, a pointer, and not null.
func decodes[T interface{ *E }, E any](raw json.RawMessage) bool {
	var v T
	return json.Unmarshal(raw, &v) == nil && v != nil
}

// directAnswer is an [sdk.CallToolResult] as the revision has it.
type directAnswer struct {
	Version string `json:"jsonrpc"`
	ID      any    `json:"id"`
	Result  struct {
		Meta       sdk.Meta      `json:"_meta"`
		Content    []sdk.Content `json:"content"`
		Structured any           `json:"structuredContent,omitempty"`
		IsError    bool          `json:"isError,omitempty"`
		Type       string        `json:"resultType"`
	} `json:"result"`
}

func (d *direct) answer(ctx context.Context, w http.ResponseWriter, id any, res *sdk.CallToolResult) {
	a := directAnswer{Version: "2.0", ID: id}
	a.Result.Meta = sdk.Meta{sdk.MetaKeyServerInfo: d.server}
	a.Result.Content, a.Result.Structured, a.Result.IsError, a.Result.Type = res.Content, res.StructuredContent, res.IsError, "complete"
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(&a); err != nil { // the types are ours
		d.log.ErrorContext(ctx, "encode a result", "error", err)
		http.Error(w, "the result cannot be encoded", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", typeJSON)
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	_, _ = w.Write(b.Bytes()) // the client may be gone
}
