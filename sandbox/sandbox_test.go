package sandbox_test

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

func TestCheckPath(t *testing.T) {
	for name, ok := range map[string]bool{
		"/": true, "/etc/passwd": true, "/a//b/.": true, "/..x": true, "/x..": true,
		"": false, "etc": false, "./x": false, "/..": false, "/a/../b": false, "/a\x00": false,
		"/" + strings.Repeat("x", 4094): true, "/" + strings.Repeat("x", 4095): false,
	} {
		if err := sandbox.CheckPath(name); (err == nil) != ok || err != nil && !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("CheckPath(%.20q) = %v", name, err)
		}
	}
}

func TestSpecDefaults(t *testing.T) {
	s, err := sandbox.Spec{Image: sandbox.Image{Rootfs: "/r"}}.WithDefaults()
	if err != nil || s.VCPUs != 1 || s.MemoryMiB != 256 || s.Processes != 512 || s.Network != sandbox.NetworkNone {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestEnviron(t *testing.T) {
	got := sandbox.Environ([]string{"A=1", "PATH=/x"}, []string{"A=2", "B=", "novalue"})
	if want := []string{"A=2", "B=", "HOME=/root", "PATH=/x"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestErrorText(t *testing.T) {
	err := &sandbox.Error{Op: "read", System: "docker", Sandbox: "x1", Err: fs.ErrNotExist, Detail: "/f", Remedy: "look"}
	if got, want := err.Error(), "docker: x1: read: file does not exist: /f (look)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("kind lost")
	}
}

func TestObserve(t *testing.T) {
	sandbox.Observe(t.Context(), sandbox.Call{}) // nobody listens
	var got []sandbox.Call
	ctx := sandbox.WithObserver(context.Background(), func(c sandbox.Call) { got = append(got, c) })
	sandbox.Observe(ctx, sandbox.Call{Op: "x", Reply: strings.Repeat("y", 1<<20)})
	if len(got) != 1 || got[0].Op != "x" || len(got[0].Reply) != 64<<10 {
		t.Errorf("got %d calls", len(got))
	}
}
