package gvisor

import (
	"context"

	"github.com/aethervm/aether/internal/treediff"
	"github.com/aethervm/aether/sandbox"
)

var _ sandbox.Differ = (*Sandbox)(nil)

// Diff is sandbox.Differ's. What was written is in a file that only the sentry can read, so the agents list all files, and
// those of /tmp, which is a file system of its own.
func (s *Sandbox) Diff(ctx context.Context, other sandbox.Sandbox, opt sandbox.DiffOptions, each func(sandbox.FileChange) error) (sandbox.Diff, error) {
	o, ok := other.(*Sandbox)
	if !ok || o.spec.Image.Digest != s.spec.Image.Digest {
		return sandbox.Diff{}, treediff.Unrelated(System, s.id)
	}
	return s.Runner.Diff(ctx, o.Runner, []string{"/tmp"}, opt, each)
}
