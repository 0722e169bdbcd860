package runtimetest

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/aethervm/aether/sandbox"
)

func (b *box) self() *box { return b }

// Diff is sandbox.Differ's. Of memory it says that each has written a page.
func (b *box) Diff(ctx context.Context, other sandbox.Sandbox, opt sandbox.DiffOptions, each func(sandbox.FileChange) error) (sandbox.Diff, error) {
	for _, s := range []sandbox.Sandbox{b, other} {
		if err := s.(interface{ check(string) error }).check("diff"); err != nil {
			return sandbox.Diff{}, err
		}
	}
	a, o := b.copyState(sandbox.SnapshotFull), other.(interface{ self() *box }).self().copyState(sandbox.SnapshotFull)
	if a.spec.Image.Digest != o.spec.Image.Digest {
		return sandbox.Diff{}, &sandbox.Error{Op: "diff", System: b.d.Name, Sandbox: b.id, Err: sandbox.ErrInvalid, Detail: "another image"}
	}
	order := func(x, y string) int {
		return strings.Compare(strings.ReplaceAll(x, "/", "\x00"), strings.ReplaceAll(y, "/", "\x00"))
	}
	all := maps.Clone(a.files)
	maps.Copy(all, o.files)
	d := sandbox.Diff{Memory: &sandbox.MemoryDiff{Total: 1 << 20, OwnA: 4096, OwnB: 4096, Differs: 8192}}
	for _, name := range slices.SortedFunc(maps.Keys(all), order) {
		if opt.After != "" && order(name, opt.After) <= 0 {
			continue
		}
		if opt.Paths > 0 && d.Paths == opt.Paths {
			break
		}
		d.Paths++
		d.Next = name
		x, inA := a.files[name]
		y, inB := o.files[name]
		change := sandbox.FileChange{Path: name}
		if inA {
			change.A = &sandbox.FileState{Mode: x.mode, Size: int64(len(x.data)), ModTime: x.time}
		}
		if inB {
			change.B = &sandbox.FileState{Mode: y.mode, Size: int64(len(y.data)), ModTime: y.time}
		}
		if inA && inB {
			change.Content = sandbox.ContentSame
			if x.data != y.data {
				change.Content = sandbox.ContentDiffers
			} else if x.mode == y.mode {
				continue
			}
		}
		if err := each(change); err != nil {
			return d, err
		}
	}
	if opt.Paths == 0 || d.Paths < opt.Paths {
		d.Next = ""
	}
	return d, ctx.Err()
}
