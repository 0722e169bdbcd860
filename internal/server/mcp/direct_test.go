package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/runtime"
)

// twoWays answers the same requests with direct and by the SDK alone. Its one tool, "run", tells what it was called with.
type twoWays struct {
	direct *direct
	sdk    http.Handler
}

func newTwoWays() twoWays {
	echo := tool{name: "run", input: inputSchema[struct{}](), output: outputSchema[struct{}]()}
	echo.call = func(_ context.Context, _ call, raw json.RawMessage) *sdk.CallToolResult {
		if strings.Contains(string(raw), "fail") {
			return failure(&runtime.Error{Code: runtime.CodeNotFound, Cause: "<none>", Remedy: "look & see"})
		}
		return &sdk.CallToolResult{
			StructuredContent: map[string]any{"raw": string(raw)},
			Content:           []sdk.Content{&sdk.TextContent{Text: "<&> " + string(raw)}, &sdk.ResourceLink{URI: "aether://x", Name: "x"}},
		}
	}
	cfg := Config{Version: "test", Session: func(context.Context, *sdk.RequestExtra) (*runtime.Session, error) { return nil, nil }}
	server := sdk.NewServer(implementation(cfg), nil)
	server.AddTool(echo.sdk(), func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		return cfg.call(ctx, echo, nil, req.Extra, req.Params.Arguments), nil
	})
	alone := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return server },
		&sdk.StreamableHTTPOptions{Stateless: true, PropagateRequestCancellation: true, MaxRequestBodyBytes: requestSize})
	return twoWays{newDirect(cfg, []tool{echo}, alone), alone}
}

func callRequest(ctx context.Context, header http.Header, body io.Reader) *http.Request {
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/mcp", body)
	for k, v := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"Mcp-Protocol-Version": revisionStateless, "Mcp-Method": "tools/call", "Mcp-Name": "run",
	} {
		r.Header.Set(k, v)
	}
	for k, v := range header {
		r.Header[k] = v
	}
	return r
}

// same sends a request both ways and compares status and message. direct tells whether it was answered without the SDK.
func (w twoWays) same(t *testing.T, header http.Header, body string) (direct bool) {
	t.Helper()
	asked := false
	d := *w.direct
	d.sdk = http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		asked = true
		w.sdk.ServeHTTP(out, r)
	})
	var status [2]int
	var message [2]any
	var text [2]string
	for i, h := range []http.Handler{&d, w.sdk} {
		out := httptest.NewRecorder()
		h.ServeHTTP(out, callRequest(t.Context(), header, strings.NewReader(body)))
		raw := out.Body.Bytes()
		if out.Header().Get("Content-Type") == typeEvents {
			_, raw, _ = bytes.Cut(raw, []byte("data: "))
		}
		status[i], text[i] = out.Code, string(raw)
		_ = json.Unmarshal(raw, &message[i]) // refusals may be plain text
	}
	if status[0] != status[1] || !reflect.DeepEqual(message[0], message[1]) || message[0] == nil && text[0] != text[1] {
		t.Errorf("%v %q:\n%d %s\nby the SDK\n%d %s", header, body, status[0], text[0], status[1], text[1])
	}
	return !asked
}

const directMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"` + revisionStateless +
	`","io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}`

// TestDirectIsAsTheSDK answers as the SDK does: what it takes, and what it leaves.
func TestDirectIsAsTheSDK(t *testing.T) {
	ways := newTwoWays()
	body := func(id, params string) string {
		return `{"jsonrpc":"2.0","id":` + id + `,"method":"tools/call","params":{"name":"run",` + params + `}}`
	}
	for _, c := range []struct {
		name   string
		header http.Header
		body   string
		direct bool
	}{
		{"plain", nil, body(`1`, directMeta+`,"arguments":{"command":"a<b"}`), true},
		{"an ID that is text", nil, body(`"a\u0000<é"`, directMeta+`,"arguments":{}`), true},
		{"a negative ID", nil, body(`-3`, directMeta), true},
		{"a large ID", nil, body(`9007199254740993`, directMeta), false},
		{"a fraction for an ID", nil, body(`1.5`, directMeta), false},
		{"an ID that is null", nil, body(`null`, directMeta), false},
		{"another field beside the parameters", nil, strings.Replace(body(`2`, directMeta), `{`, `{"result":1,`, 1), false},
		{"parameters in capitals", nil, strings.Replace(body(`2`, directMeta), `"params"`, `"Params"`, 1), false},
		{"something behind it", nil, body(`2`, directMeta) + `{}`, false},
		{"no arguments", nil, body(`2`, directMeta), true},
		{"arguments that are null", nil, body(`2`, directMeta+`,"arguments":null`), true},
		{"arguments that are none", nil, body(`2`, directMeta+`,"arguments":[1]`), true},
		{"a failure", nil, body(`2`, directMeta+`,"arguments":{"x":"fail"}`), true},
		{"spaces", nil, " \n" + body(`2`, "\t"+directMeta), true},
		{"other metadata", nil, body(`2`, strings.Replace(directMeta, `{`, `{"traceparent":"00-1",`, 1)), true},
		{"no client info", nil, body(`2`, strings.Replace(directMeta, `"io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"},`, ``, 1)), true},
		{"client info that is null", nil, body(`2`, strings.Replace(directMeta, `{"name":"c","version":"1"}`, `null`, 1)), false},
		{"client info that is none", nil, body(`2`, strings.Replace(directMeta, `{"name":"c","version":"1"}`, `[]`, 1)), false},
		{"no capabilities", nil, body(`2`, strings.Replace(directMeta, `clientCapabilities`, `clientcapabilities`, 1)), false},
		{"capabilities that are none", nil, body(`2`, strings.Replace(directMeta, `Capabilities":{}`, `Capabilities":7`, 1)), false},
		{"progress", nil, body(`2`, strings.Replace(directMeta, `{`, `{"progressToken":1,`, 1)), false},
		{"a level", nil, body(`2`, strings.Replace(directMeta, `{`, `{"io.modelcontextprotocol/logLevel":"info",`, 1)), true},
		{"no metadata", nil, body(`2`, `"arguments":{}`), false},
		{"another revision", nil, body(`2`, strings.Replace(directMeta, revisionStateless, revisionSessions, 1)), false},
		{"another field", nil, body(`2`, directMeta+`,"requestState":"x"`), false},
		{"another tool", http.Header{"Mcp-Name": {"none"}}, body(`2`, directMeta), false},
		{"a tool that there is not", http.Header{"Mcp-Name": {"none"}}, strings.Replace(body(`2`, directMeta), `"run"`, `"none"`, 1), false},
		{"a name in capitals", nil, strings.Replace(body(`2`, directMeta), `"name":"run"`, `"Name":"run"`, 1), false},
		{"a name twice", nil, body(`2`, `"name":"other",`+directMeta), false},
		{"another method", nil, strings.Replace(body(`2`, directMeta), `tools/call`, `tools/list`, 1), false},
		{"no method's header", http.Header{"Mcp-Method": nil}, body(`2`, directMeta), false},
		{"no ID", nil, strings.Replace(body(`2`, directMeta), `"id":2,`, ``, 1), false},
		{"an ID that is none", nil, body(`{}`, directMeta), false},
		{"a batch", nil, `[` + body(`2`, directMeta) + `]`, false},
		{"no JSON", nil, `{`, false},
		{"nothing", nil, ``, false},
		{"deep", nil, body(`2`, directMeta+`,"arguments":{"x":`+strings.Repeat(`[`, 2000)+strings.Repeat(`]`, 2000)+`}`), false},
		{"one type accepted", http.Header{"Accept": {"application/json"}}, body(`2`, directMeta), false},
		{"all types accepted", http.Header{"Accept": {"*/*"}}, body(`2`, directMeta), false},
		{"types apart", http.Header{"Accept": {"application/json", "text/event-stream"}}, body(`2`, directMeta), true},
		{"another content type", http.Header{"Content-Type": {"text/plain"}}, body(`2`, directMeta), false},
		{"resumption", http.Header{"Last-Event-Id": {"1"}}, body(`2`, directMeta), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if direct := ways.same(t, c.header, c.body); direct != c.direct {
				t.Errorf("answered without the SDK: %t, want %t", direct, c.direct)
			}
		})
	}
}

// TestDirectIsJSON says what an answer is sent as, and that a request whose body fails to come is the SDK's.
func TestDirectIsJSON(t *testing.T) {
	ways := newTwoWays()
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"run",` + directMeta + `}}`
	out := httptest.NewRecorder()
	ways.direct.ServeHTTP(out, callRequest(t.Context(), nil, strings.NewReader(body)))
	if got := out.Header().Get("Content-Type"); got != typeJSON || out.Code != http.StatusOK {
		t.Errorf("%d %s", out.Code, got)
	}
	for name, rest := range map[string]io.Reader{
		"cut off":  failing{io.ErrUnexpectedEOF},
		"too long": strings.NewReader(strings.Repeat(" ", requestSize)),
	} {
		out = httptest.NewRecorder()
		ways.direct.ServeHTTP(out, callRequest(t.Context(), nil, io.MultiReader(strings.NewReader(body), rest)))
		if out.Code < 400 || out.Code > 499 {
			t.Errorf("%s: %d %s", name, out.Code, out.Body)
		}
	}
}

// FuzzDirect compares the answers to any body with the SDK's.
func FuzzDirect(f *testing.F) {
	ways := newTwoWays()
	f.Add(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"run",` + directMeta + `,"arguments":{"command":"true"}}}`)
	f.Add(`{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"run",` + directMeta + `}}`)
	f.Add(`[{"jsonrpc":"2.0","id":1}]`)
	f.Fuzz(func(t *testing.T, body string) { ways.same(t, nil, body) })
}

// TestDirectRefusesOtherHosts is TestRebindingIsRefused for a call.
func TestDirectRefusesOtherHosts(t *testing.T) {
	s := serveHTTP(t, true)
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list",` + directMeta + `}}`
	for host, want := range map[string]int{"evil.example": http.StatusForbidden, "": http.StatusOK} {
		made := callRequest(t.Context(), http.Header{"Mcp-Name": {"list"}}, strings.NewReader(body))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header, req.Host = made.Header, host
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%q: %s", host, res.Status)
		}
	}
}
