package docker

import (
	"context"

	"github.com/aethervm/aether/internal/treediff"
	"github.com/aethervm/aether/sandbox"
)

var _ sandbox.Differ = (*Sandbox)(nil)

func (s *Sandbox) self() *Sandbox { return s }

// Diff is Differ.Diff. The engine's own list of changes is not used: that of a fork begins with the image that the fork was
// made by way of, says nothing of what was removed from that, and comes whole however long it is.
func (s *Sandbox) Diff(ctx context.Context, other sandbox.Sandbox, opt sandbox.DiffOptions, each func(sandbox.FileChange) error) (sandbox.Diff, error) {
	o, ok := other.(interface{ self() *Sandbox })
	if !ok || o.self().spec.Image.Digest != s.spec.Image.Digest {
		return sandbox.Diff{}, treediff.Unrelated(system, s.id)
	}
	return s.Runner.Diff(ctx, o.self().Runner, nil, opt, each)
}
