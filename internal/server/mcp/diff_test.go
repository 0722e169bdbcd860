package mcp

import (
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
)

func TestDiffIsAResource(t *testing.T) {
	c := over(t, openRuntime(t, runtimetest.New("docker"), runtime.Limits{}))
	a := must[runtime.SandboxInfo](c, "create", nil).ID
	b := must[runtime.SandboxInfo](c, "create", nil).ID
	must[runtime.WriteResult](c, "write", args{"sandbox": b, "path": "/tmp/new", "text": "x"})
	read, err := c.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "aether://sandboxes/" + a + "/diff/" + b})
	if err != nil || !strings.Contains(read.Contents[0].Text, `"path":"/tmp/new","kind":"added"`) || strings.Contains(read.Contents[0].Text, `"more"`) {
		t.Errorf("%+v, %v", read, err)
	}
	saved := must[snapshotResult](c, "snapshot", args{"action": "save", "sandbox": b})
	read, err = c.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "aether://sandboxes/" + a + "/diff/" + saved.Snapshot.ID})
	if err != nil || !strings.Contains(read.Contents[0].Text, `"path":"/tmp/new","kind":"added"`) {
		t.Errorf("to a snapshot: %+v, %v", read, err)
	}
	if _, err := c.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "aether://sandboxes/" + a + "/diff/sbnone"}); err == nil {
		t.Error("it differs from nothing")
	}
}
