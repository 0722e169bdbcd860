package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/lease"
)

// Sweep is sandbox.Driver's.
func (d *Driver) Sweep(ctx context.Context) (int, error) {
	root, err := hostdir.RunOf(System)
	if err != nil {
		return 0, err
	}
	return lease.Sweep(ctx, root, sweepLease)
}

// sweepLease removes all that carries the ID of a dead lease.
func sweepLease(ctx context.Context, l *lease.Lease) (int, error) {
	ids, err := sandboxDirs(l.Dir)
	if err == nil {
		err = wipe(ctx, rootFlag+l.Dir+"/", groupsOf(l.ID))
	}
	if err != nil {
		l.Abandon()
		return 0, fmt.Errorf("sweep lease %s: %w", l.ID, err)
	}
	disks, err := disksOf(l.ID)
	if err != nil {
		l.Abandon()
		return 0, err
	}
	return len(ids), (&ownership{Lease: l, disks: disks}).disown()
}

// sandboxDirs lists the sandboxes that have a directory in a lease.
func sandboxDirs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() {
			ids = append(ids, filepath.Join(dir, e.Name()))
		}
	}
	return ids, nil
}

// wipeTimeout bounds the killing of what is left of a sandbox.
const wipeTimeout = 30 * time.Second

// wipe kills every process in groups, and every process with marker on its command line, and
// removes the groups. It is the way that does not depend on runsc: for a sandbox that was half made
// when its maker was killed, or whose runsc does not answer.
//
// A runsc that is being killed may just have forked, so it looks until it finds nothing twice.
func wipe(ctx context.Context, marker string, groups func() []group) error {
	ctx, cancel := context.WithTimeout(ctx, wipeTimeout)
	defer cancel()
	for clean := 0; clean < 2; {
		found := killMarked(marker)
		for _, g := range groups() {
			found = g.kill() || found
		}
		if clean++; found {
			clean = 0
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill what is left of %s: %w", marker, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
	var errs []error
	for _, g := range groups() {
		errs = append(errs, g.remove(ctx))
	}
	return errors.Join(errs...)
}
