package main

import (
	"slices"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

func TestNetworkOptions(t *testing.T) {
	for _, c := range []struct {
		options networkOptions
		network sandbox.Network
	}{
		{networkOptions{}, ""},
		{networkOptions{net: "none"}, sandbox.NetworkNone},
		{networkOptions{net: "outbound"}, sandbox.NetworkOutbound},
		{networkOptions{allow: []string{"pypi.org:443", "10.0.0.0/8"}}, sandbox.NetworkOutbound},
		{networkOptions{net: "outbound", allow: []string{"*"}}, sandbox.NetworkOutbound},
	} {
		spec := sandbox.Spec{Image: sandbox.Image{Rootfs: "/r"}}
		if err := c.options.check(); err != nil {
			t.Errorf("%+v: %v", c.options, err)
		}
		c.options.apply(&spec)
		if spec.Network != c.network || !slices.Equal(spec.Egress, c.options.allow) {
			t.Errorf("%+v: %+v", c.options, spec)
		}
		if _, err := spec.WithDefaults(); err != nil {
			t.Errorf("%+v: %v", c.options, err)
		}
	}
}
