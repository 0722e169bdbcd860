package mcp

import (
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/sandbox"
)

// An agent finds the host's templates, and has copies made of them.
func TestTemplates(t *testing.T) {
	k := runtimetest.NewKeeper(runtimetest.New("docker"))
	img := sandbox.Image{Digest: "sha256:" + strings.Repeat("0", 64), Rootfs: "/nowhere"}
	if _, err := k.CreateTemplate(t.Context(), sandbox.TemplateSpec{Name: "py", Spec: sandbox.Spec{Image: img, VCPUs: 1, MemoryMiB: 64, Processes: 16},
		WarmUp: []sandbox.Cmd{{Args: []string{"write", "/f", "warm"}}}}); err != nil {
		t.Fatal(err)
	}
	rt, err := runtime.Open(t.Context(), runtime.Config{Drivers: []sandbox.Driver{k}, Images: &runtimetest.Images{}, HostTemplates: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	})
	c := over(t, rt)
	if list := must[runtime.Listing](c, "list", nil); len(list.Templates) != 1 || list.Templates[0].Name != "py" {
		t.Errorf("%+v", list)
	}
	read, err := c.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: uriTemplates})
	if err != nil || !strings.Contains(read.Contents[0].Text, `"name":"py"`) {
		t.Errorf("%+v, %v", read, err)
	}
	box := must[runtime.SandboxInfo](c, "create", args{"template": "py", "ttl_s": 100})
	if box.Template != "py" || box.MemoryMiB != 64 {
		t.Errorf("%+v", box)
	}
	if res := must[runtime.RunResult](c, "run", args{"sandbox": box.ID, "command": "cat /f"}); res.Stdout != "warm" {
		t.Errorf("%+v", res)
	}
	c.refused(runtime.CodeNotFound, "create", args{"template": "none"})
	c.refused(runtime.CodeInvalid, "create", args{"template": "py", "image": "base"})
}
