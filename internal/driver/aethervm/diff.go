package aethervm

import (
	"context"

	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/sandbox"
)

var _ sandbox.Differ = (*Sandbox)(nil)

// Diff is sandbox.Differ's. What it says of memory, the cells know; it is read from no guest. It is of the moment before the
// files are compared, which costs both guests some memory too.
func (s *Sandbox) Diff(ctx context.Context, other sandbox.Sandbox, opt sandbox.DiffOptions, each func(sandbox.FileChange) error) (sandbox.Diff, error) {
	var memory *sandbox.MemoryDiff
	if o, ok := other.(*Sandbox); ok && opt.After == "" {
		var err error
		if memory, err = s.diffMemory(ctx, o); err != nil {
			return sandbox.Diff{}, err
		}
	}
	d, err := s.Sandbox.Diff(ctx, other, opt, each)
	d.Memory = memory
	return d, err
}

func (s *Sandbox) diffMemory(ctx context.Context, other *Sandbox) (*sandbox.MemoryDiff, error) {
	a, err := s.memory(ctx)
	if err != nil {
		return nil, err
	}
	b, err := other.memory(ctx)
	if err != nil {
		return nil, err
	}
	d, related := a.Diff(b)
	if !related {
		return nil, nil
	}
	return (*sandbox.MemoryDiff)(&d), nil
}

func (s *Sandbox) memory(ctx context.Context) (m *cell.Memory, err error) {
	err = s.Operate(ctx, "diff", func(ctx context.Context) (err error) {
		m, err = s.machine.cell.Memory(ctx)
		return err
	})
	return m, err
}
