package mcp

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/tiktoken-go/tokenizer/codec"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/internal/server/access"
	"github.com/aethervm/aether/sandbox"
)

// toolListsEnv is a directory of other servers' lists, as scripts/mcp-tools fetches them.
const toolListsEnv = "AETHER_TOOL_LISTS"

// BenchmarkToolsList is what the list of tools costs a host of a model, in tokens and bytes: as it is sent, and of
// that only the part that hosts show to a model. Other servers' lists are counted alike.
func BenchmarkToolsList(b *testing.B) {
	for _, format := range Formats() {
		b.Run(format, func(b *testing.B) {
			var raw []byte
			for b.Loop() {
				v, err := ToolsAs(format)
				if err != nil {
					b.Fatal(err)
				}
				if raw, err = json.Marshal(v); err != nil {
					b.Fatal(err)
				}
			}
			countTools(b, raw)
		})
	}
	dir := os.Getenv(toolListsEnv)
	if dir == "" {
		return
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		b.Fatalf("no lists in %s: %v", dir, err)
	}
	for _, file := range files {
		b.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(b *testing.B) {
			raw, err := os.ReadFile(file)
			if err != nil {
				b.Fatal(err)
			}
			countTools(b, raw)
		})
	}
}

func countTools(b *testing.B, raw []byte) {
	count := func(text []byte) float64 {
		n, err := codec.NewO200kBase().Count(string(text))
		if err != nil {
			b.Fatal(err)
		}
		return float64(n)
	}
	b.ReportMetric(count(raw), "tokens")
	b.ReportMetric(float64(len(raw)), "bytes")
	var list struct {
		Tools []struct {
			Name        string          `json:"name"`
			Description string          `json:"description"`
			InputSchema json.RawMessage `json:"inputSchema"`
		} `json:"tools"`
	}
	if json.Unmarshal(raw, &list) != nil || len(list.Tools) == 0 { // another format
		return
	}
	shown, err := json.Marshal(list)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(len(list.Tools)), "tools")
	b.ReportMetric(count(shown), "shown-tokens")
}

// BenchmarkRun runs a program that does nothing in a system in memory: by its driver, by the runtime, and over
// MCP. What differs is the overhead of each layer.
func BenchmarkRun(b *testing.B) {
	driver := runtimetest.New("docker")
	rt, err := runtime.Open(b.Context(), runtime.Config{
		StateDir: b.TempDir(), Drivers: []sandbox.Driver{driver}, Images: &runtimetest.Images{}, System: "docker",
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = rt.Close(), driver.Close() })
	web := httptest.NewServer(Handler(HTTPConfig{Version: "test", Runtime: rt, NoAuth: true}))
	b.Cleanup(web.Close)
	tenant, err := rt.Local(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	session, err := rt.OpenSession(b.Context(), tenant.ID, runtime.SessionSpec{ID: access.DefaultSession})
	if err != nil {
		b.Fatal(err)
	}
	box, err := session.Create(b.Context(), runtime.CreateRequest{})
	if err != nil {
		b.Fatal(err)
	}
	client, err := sdk.NewClient(&sdk.Implementation{Name: "bench", Version: "1"}, nil).
		Connect(b.Context(), &sdk.StreamableClientTransport{Endpoint: web.URL}, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = client.Close() })

	b.Run("driver", func(b *testing.B) {
		box, err := driver.Create(b.Context(), sandbox.Spec{Image: sandbox.Image{Rootfs: "/nowhere"}})
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := box.Exec(b.Context(), sandbox.Cmd{Args: []string{"true"}}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("runtime", func(b *testing.B) {
		for b.Loop() {
			if _, err := session.Run(b.Context(), runtime.RunRequest{Sandbox: box.ID, Shell: "true"}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("mcp", func(b *testing.B) {
		params := &sdk.CallToolParams{Name: "run", Arguments: map[string]any{"sandbox": box.ID, "command": "true"}}
		for b.Loop() {
			if res, err := client.CallTool(b.Context(), params); err != nil || res.IsError {
				b.Fatal(err, res)
			}
		}
	})
}
