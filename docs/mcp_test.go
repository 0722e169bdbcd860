package docs

import (
	"os"
	"strings"
	"testing"
)

// TestClientConfigurationIsWhatRuns compares the configuration that pages show with the file that
// scripts/mcp-check runs clients with.
func TestClientConfigurationIsWhatRuns(t *testing.T) {
	file, err := os.ReadFile("../examples/mcp.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range []string{"MCP.md", "../README.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "```json\n"+string(file)+"```\n") {
			t.Errorf("%s does not show examples/mcp.json", page)
		}
	}
}
