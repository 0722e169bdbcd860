package agentsandbox

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

// What the host has run out of is one kind, with the cause and a remedy each.
func TestTypedScarcity(t *testing.T) {
	seen := map[string]bool{}
	for _, kind := range []error{syscall.ENOSPC, syscall.ENOMEM, syscall.EMFILE, syscall.EAGAIN} {
		err := Typed("fork", "aethervm", "box", fmt.Errorf("make a layer: %w", kind))
		var e *sandbox.Error
		if !errors.Is(err, sandbox.ErrNoSpace) || !errors.As(err, &e) || e.Detail != "make a layer: "+kind.Error() || e.Remedy == "" || seen[e.Remedy] {
			t.Errorf("%v: %#v", kind, err)
			continue
		}
		seen[e.Remedy] = true
	}
	other := errors.New("other")
	if err := Typed("fork", "aethervm", "box", other); !errors.Is(err, other) || errors.Is(err, sandbox.ErrNoSpace) {
		t.Errorf("%#v", err)
	}
}
