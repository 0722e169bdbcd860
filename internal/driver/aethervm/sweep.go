package aethervm

import (
	"context"
	"fmt"
	"os"

	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/lease"
)

// Sweep is sandbox.Driver's. Cells end with their owner; what is left of them is directories and control
// groups.
func (d *Driver) Sweep(ctx context.Context) (int, error) {
	root, err := hostdir.RunOf(System)
	if err != nil {
		return 0, err
	}
	return lease.Sweep(ctx, root, sweepLease)
}

func sweepLease(ctx context.Context, l *lease.Lease) (int, error) {
	entries, err := os.ReadDir(l.Dir)
	if err != nil {
		l.Abandon()
		return 0, fmt.Errorf("sweep lease %s: %w", l.ID, err)
	}
	if _, err := cell.Sweep(ctx, cellsOf(l.ID)); err != nil {
		l.Abandon()
		return 0, fmt.Errorf("sweep lease %s: %w", l.ID, err)
	}
	machines := 0
	for _, e := range entries {
		if e.IsDir() {
			machines++
		}
	}
	return machines, l.Release()
}
