package aethervm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/sandbox"
)

// rehearsePatience is how long a copy may take for a program that does nothing, beside those that the template has.
const rehearsePatience = 2 * time.Minute

// unreachable is the outside of a copy whose programs are only tried: what they send would be sent by each other copy again.
type unreachable struct{}

func (unreachable) Dial(context.Context, string, string) (net.Conn, error) {
	return nil, unix.ENETUNREACH
}
func (unreachable) Copy() sandbox.Outside { return unreachable{} }
func (unreachable) Close() error          { return nil }

// rehearse makes a copy of a machine whose memory is in the file at path, has it become another sandbox and run a program,
// and returns what it has used of the memory meanwhile: pages that it has written by the time that its programs went on are to
// be its own, the others are only to be mapped.
func (o original) rehearse(ctx context.Context, path string, about snapshot.About, state []byte) (_ []snapshot.Run, err error) {
	file, err := snapshot.OpenRegular(path) // for reading only, unlike the one that it is written by
	if err != nil {
		return nil, err
	}
	branch, err := cell.OpenSaved(saved(about, state, file))
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, branch.Close()) }()
	o.branch, o.outside = branch, unreachable{}
	s, err := o.copy(ctx, "rehearse", nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	c, ok := s.(*Sandbox)
	if !ok {
		return nil, errors.New("it is no sandbox of this driver") // the keeper returns what it was given
	}
	awake, err := c.machine.cell.Touched(ctx)
	if err != nil {
		return nil, err
	}
	// An image without it has been awake all the same.
	exit, err := c.Exec(ctx, sandbox.Cmd{Args: []string{"true"}, Timeout: rehearsePatience})
	if err != nil && !errors.Is(err, sandbox.ErrCannotRun) {
		return nil, err
	}
	if exit.TimedOut {
		return nil, fmt.Errorf("its programs leave no time to others: `true` has not ended within %v", rehearsePatience)
	}
	all, err := c.machine.cell.Touched(ctx)
	if err != nil {
		return nil, err
	}
	return prefetchList(awake, all, uint64(about.MemoryMiB)<<20), nil
}

// prefetchList joins what was written early with all that was used, of memory of so many bytes.
func prefetchList(early, all []snapshot.Run, memory uint64) []snapshot.Run {
	const (
		used = iota + 1
		written
	)
	pages := make([]byte, memory/snapshot.PageSize)
	mark := func(r snapshot.Run, as byte) {
		for i := r.RAM / snapshot.PageSize; i < (r.RAM+r.Size)/snapshot.PageSize; i++ {
			pages[i] = as
		}
	}
	for _, r := range all {
		mark(r, used)
	}
	for _, r := range early {
		if r.Write {
			mark(r, written)
		}
	}
	var runs []snapshot.Run
	for i, as := range pages {
		if as == 0 {
			continue
		}
		at, write := uint64(i)*snapshot.PageSize, as == written
		if n := len(runs); n > 0 && runs[n-1].RAM+runs[n-1].Size == at && runs[n-1].Write == write {
			runs[n-1].Size += snapshot.PageSize
			continue
		}
		runs = append(runs, snapshot.Run{RAM: at, Size: snapshot.PageSize, Write: write})
	}
	if len(runs) > snapshot.MaxRuns { // the shortest gain least
		slices.SortFunc(runs, func(a, b snapshot.Run) int { return cmp.Compare(b.Size, a.Size) })
		runs = runs[:snapshot.MaxRuns]
		slices.SortFunc(runs, func(a, b snapshot.Run) int { return cmp.Compare(a.RAM, b.RAM) })
	}
	return runs
}
