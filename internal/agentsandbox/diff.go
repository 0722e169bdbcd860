package agentsandbox

import (
	"context"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/treediff"
	"github.com/aethervm/aether/sandbox"
)

// agentOf is how a driver's sandboxes give away the one of this package that is in them.
type agentOf interface{ agent() *Sandbox }

func (s *Sandbox) agent() *Sandbox { return s }

// Diff is sandbox.Differ's, without the memory. Each agent lists what lies in the memory of its guest over the image.
func (s *Sandbox) Diff(ctx context.Context, other sandbox.Sandbox, opt sandbox.DiffOptions, each func(sandbox.FileChange) error) (sandbox.Diff, error) {
	var o *Sandbox
	if has, ok := other.(agentOf); ok {
		o = has.agent()
	}
	if o == nil || o.cfg.System != s.cfg.System || o.cfg.Spec.Image.Digest != s.cfg.Spec.Image.Digest {
		return sandbox.Diff{}, treediff.Unrelated(s.cfg.System, s.cfg.ID)
	}
	return treediff.Compare(ctx, tree{s}, tree{o}, time.Time{}, opt, each)
}

// tree implements treediff.Tree.
type tree struct{ s *Sandbox }

func (t tree) Changes(ctx context.Context, after string, limit int, each func(agentproto.Change) error) (w agentproto.Walked, err error) {
	err = t.s.Operate(ctx, "diff", func(ctx context.Context) (err error) {
		w, err = t.s.Client.Changes(ctx, after, limit, each)
		return err
	})
	return w, err
}

func (t tree) Examine(ctx context.Context, list []agentproto.Want, each func(agentproto.Change) error) error {
	return t.s.Operate(ctx, "diff", func(ctx context.Context) error { return t.s.Client.Examine(ctx, list, each) })
}
