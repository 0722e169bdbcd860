package aethervm

import (
	"context"
	"errors"
	"sync"

	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/internal/lease"
)

// sharedCells are the processes that the copies of one call share. They end with the last of their copies.
type sharedCells struct {
	per   int // copies
	cells []*sharedCell
}

// cellsFor returns what n copies share; nil if each has a process of its own. The caller closes it when the copies have been made.
func (o original) cellsFor(n int) *sharedCells {
	per := o.driver.perCell
	if per == 1 || n == 1 {
		return nil
	}
	s := &sharedCells{per: per}
	for ; n > 0; n -= per {
		s.cells = append(s.cells, &sharedCell{of: size{o.branch.VCPUs(), o.branch.MemoryMiB()}, places: min(n, per)})
	}
	return s
}

// of is the process of one of the copies; nil if it has one of its own.
func (s *sharedCells) of(i int) *sharedCell {
	if s == nil {
		return nil
	}
	return s.cells[i/s.per]
}

func (s *sharedCells) close() error {
	if s == nil {
		return nil
	}
	var errs []error
	for _, c := range s.cells {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}

// sharedCell is a process for several copies, made when the first of them needs it.
type sharedCell struct {
	of     size
	places int

	making  sync.Once
	process *cell.Shared
	err     error
}

// start starts a cell in the process, as Driver.startCell does.
func (s *sharedCell) start(ctx context.Context, owned *lease.Lease, cfg cell.Config) (*machine, error) {
	s.making.Do(func() { s.process, s.err = shareCell(ctx, owned, s.of, s.places) })
	if s.err != nil {
		return nil, s.err
	}
	id := lease.NewID()
	cfg.ID = cellsOf(owned.ID) + id
	return newMachine(ctx, owned, id, cfg, s.process.Start)
}

// close has the process end with the last of its copies.
func (s *sharedCell) close() error {
	if s.process == nil {
		return nil
	}
	return s.process.Close()
}

func shareCell(ctx context.Context, owned *lease.Lease, of size, places int) (*cell.Shared, error) {
	spare, err := spareConfig(owned, of)
	if err != nil {
		return nil, err
	}
	return cell.Share(ctx, cell.SharedConfig{SpareConfig: spare, Places: places})
}
