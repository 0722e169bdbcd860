package sandbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

type nowhere struct{ Token string }

func (nowhere) Dial(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("nothing")
}
func (n nowhere) Copy() sandbox.Outside { return n }
func (nowhere) Close() error            { return nil }

func TestOutside(t *testing.T) {
	spec := sandbox.Spec{Image: sandbox.Image{Rootfs: "/r"}, Outside: nowhere{"s3cr3t"}}
	if _, err := spec.WithDefaults(); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("without a network: %v", err)
	}
	spec.Network = sandbox.NetworkOutbound
	if _, err := spec.WithDefaults(); err != nil {
		t.Error(err)
	}
	err := spec.RefuseEgressRules("create", "x")
	if e, ok := errors.AsType[*sandbox.Error](err); !ok || !errors.Is(err, sandbox.ErrUnsupported) || e.Remedy == "" {
		t.Errorf("a driver that cannot: %v", err)
	}
	if text, err := json.Marshal(spec); err != nil || strings.Contains(string(text), "s3cr3t") {
		t.Errorf("%s, %v", text, err)
	}
}
