package treediff

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"path"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/sandbox"
)

// batchPaths and batchBytes bound one request about paths.
const (
	batchPaths = 1024
	batchBytes = 512 << 10
)

// Compare compares what two sandboxes have written, as sandbox.Differ says. whole is zero if their agents list what was written
// since the image. Else they list all that is there, and whole is when the younger one began: then files that were last changed
// before that, in both at the same time, are not read.
func Compare(ctx context.Context, a, b Tree, whole time.Time, opt sandbox.DiffOptions, each func(sandbox.FileChange) error) (sandbox.Diff, error) {
	if opt.After != "" {
		if err := sandbox.CheckPath(opt.After); err != nil {
			return sandbox.Diff{}, err
		}
		if opt.After = path.Clean(opt.After); opt.After == "/" {
			opt.After = ""
		}
	}
	if opt.Paths < 0 || opt.Bytes < 0 {
		return sandbox.Diff{}, fmt.Errorf("%w: a negative bound", sandbox.ErrInvalid)
	}
	c := &comparison{trees: [2]Tree{a, b}, whole: whole, each: each, paths: cmp.Or(opt.Paths, sandbox.DefaultDiffPaths)}
	bytes := cmp.Or(opt.Bytes, sandbox.DefaultDiffBytes)
	c.bytes = [2]int64{bytes, bytes}
	err := c.run(ctx, opt.After)
	return c.found, err
}

// comparison is one in progress.
type comparison struct {
	trees [2]Tree
	whole time.Time // as of Compare
	each  func(sandbox.FileChange) error
	paths int      // that may still be looked at
	bytes [2]int64 // of content that may still be read in each
	found sandbox.Diff
}

// item is a path that one of the two has listed, or both.
type item struct {
	path  string
	state [2]*agentproto.Change
	read  [2]bool // its content was asked for
}

func (c *comparison) run(ctx context.Context, after string) error {
	for {
		var pages [2]page
		err := c.both(ctx, func(ctx context.Context, i int) (err error) {
			pages[i], err = list(ctx, c.trees[i], after)
			return err
		})
		if err != nil {
			return err
		}
		items, cut := merge(pages)
		if len(items) > c.paths {
			items = items[:c.paths]
			cut = items[len(items)-1].path
			c.found.Next = cut
		} else {
			// What is behind the cut comes again in the next page, so that some may be counted twice.
			c.found.Skipped += pages[0].Skipped + pages[1].Skipped
		}
		c.paths -= len(items)
		c.found.Paths += len(items)
		for len(items) > 0 {
			n, size := 0, 0
			for n < min(len(items), batchPaths) && size < batchBytes {
				size += len(items[n].path)
				n++
			}
			if err := c.batch(ctx, items[:n]); err != nil {
				return err
			}
			items = items[n:]
		}
		switch {
		case cut == "" || c.found.Next != "":
			return nil
		case c.paths == 0:
			c.found.Next = cut
			return nil
		}
		after = cut
	}
}

// both does something for each of the two at the same time. An error of one ends the other.
func (c *comparison) both(ctx context.Context, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var errs [2]error
	var first error
	var once sync.Once
	var tasks sync.WaitGroup
	for i := range errs {
		tasks.Go(func() {
			if errs[i] = do(ctx, i); errs[i] != nil {
				once.Do(func() { first = errs[i]; cancel() })
			}
		})
	}
	tasks.Wait()
	return first
}

// merge joins two pages. cut is the path up to which both are complete; empty if there is no more.
func merge(pages [2]page) (items []item, cut string) {
	for _, p := range pages {
		if p.More && (cut == "" || less(p.last(), cut)) {
			cut = p.last()
		}
	}
	a, b := pages[0].list, pages[1].list
	for len(a) > 0 || len(b) > 0 {
		var it item
		switch {
		case len(b) == 0 || len(a) > 0 && less(a[0].Path, b[0].Path):
			it = item{path: a[0].Path, state: [2]*agentproto.Change{&a[0], nil}}
			a = a[1:]
		case len(a) == 0 || less(b[0].Path, a[0].Path):
			it = item{path: b[0].Path, state: [2]*agentproto.Change{nil, &b[0]}}
			b = b[1:]
		default:
			it = item{path: a[0].Path, state: [2]*agentproto.Change{&a[0], &b[0]}}
			a, b = a[1:], b[1:]
		}
		if cut != "" && less(cut, it.path) {
			break
		}
		items = append(items, it)
	}
	return items, cut
}

// batch finds out what is not known yet of some paths, and tells which of them differ.
func (c *comparison) batch(ctx context.Context, items []item) error {
	work := items[:0:0]
	for _, it := range items {
		if !own(it.path) {
			work = append(work, it)
		}
	}
	for round := range 2 {
		var asked [2][]*item
		var wants [2][]agentproto.Want
		for n := range work {
			it := &work[n]
			for i := range it.state {
				if want, ok := c.want(it, i, round); ok {
					asked[i], wants[i] = append(asked[i], it), append(wants[i], want)
				}
			}
		}
		err := c.both(ctx, func(ctx context.Context, i int) error { return examine(ctx, c.trees[i], i, asked[i], wants[i]) })
		if err != nil {
			return err
		}
	}
	for _, it := range work {
		change, ok := it.change(c.whole)
		if !ok {
			continue
		}
		if err := c.each(change); err != nil {
			return err
		}
	}
	return nil
}

// want is what is to be asked of the sandbox i about a path, if anything. In the first round that is what one of them has
// not listed, and the content of what both have; in the second, the content of what the first has shown to be of one size.
func (c *comparison) want(it *item, i, round int) (agentproto.Want, bool) {
	mine, other := it.state[i], it.state[1-i]
	want := agentproto.Want{Path: it.path, Size: -1}
	if mine == nil {
		if !c.whole.IsZero() || round > 0 {
			return want, false
		}
		if regular(other) && c.afford(i, other.Size) {
			want.Size = other.Size
		}
		return want, true
	}
	if !regular(mine) || !regular(other) || mine.Size != other.Size || mine.Size == 0 || mine.Digest != "" || it.read[i] {
		return want, false
	}
	if round > 0 && other.Digest == "" || untouched(mine, other, c.whole) || !c.afford(i, mine.Size) {
		return want, false
	}
	want.Size = mine.Size
	it.read[i] = true
	return want, true
}

// afford takes bytes that are to be read off what may be.
func (c *comparison) afford(i int, size int64) bool {
	if size > c.bytes[i] {
		return false
	}
	c.bytes[i] -= size
	return true
}

func regular(c *agentproto.Change) bool { return c != nil && !c.Gone && c.Mode.IsRegular() }

// slack is by how much a file's time of change may lie before the change: the kernel takes that of its last tick.
const slack = 20 * time.Millisecond

// untouched tells that two files are those that both sandboxes began with, which they did at that time: each write of one changes
// its time of change, which programs cannot set. Two that were written since may have been in the same tick of the clock.
func untouched(a, b *agentproto.Change, began time.Time) bool {
	return a.Changed.Before(began.Add(-slack)) && a.Size == b.Size && a.Modified.Equal(b.Modified) && a.Changed.Equal(b.Changed)
}

// examine asks a sandbox about paths, and takes exactly that.
func examine(ctx context.Context, t Tree, i int, asked []*item, wants []agentproto.Want) error {
	if len(wants) == 0 {
		return nil
	}
	n := 0
	err := t.Examine(ctx, wants, func(c agentproto.Change) error {
		if n == len(wants) || c.Path != wants[n].Path || len(c.Target) > pageBytes/batchPaths {
			return fmt.Errorf("%w: an answer about %.100q, which was not asked for", agentproto.ErrProtocol, c.Path)
		}
		if wants[n].Size < 0 || c.Size != wants[n].Size {
			c.Digest = ""
		}
		asked[n].state[i] = &c
		n++
		return nil
	})
	if err == nil && n < len(wants) {
		err = fmt.Errorf("%w: %d answers about %d paths", agentproto.ErrProtocol, n, len(wants))
	}
	return err
}

// change is what differs at a path, if anything does.
func (it *item) change(whole time.Time) (sandbox.FileChange, bool) {
	a, b := present(it.state[0]), present(it.state[1])
	change := sandbox.FileChange{Path: it.path, A: fileState(a), B: fileState(b)}
	if a == nil || b == nil {
		return change, a != nil || b != nil
	}
	differs := a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || a.Target != b.Target
	if a.Mode.IsRegular() && b.Mode.IsRegular() {
		switch {
		case a.Size != b.Size:
			change.Content = sandbox.ContentDiffers
		case a.Size == 0, untouched(a, b, whole):
			change.Content = sandbox.ContentSame
		case a.Digest == "" || b.Digest == "":
			change.Content = sandbox.ContentUnknown
		case a.Digest == b.Digest:
			change.Content = sandbox.ContentSame
		default:
			change.Content = sandbox.ContentDiffers
		}
		differs = differs || change.Content != sandbox.ContentSame
	}
	return change, differs
}

// present is what is at a path; nil if nothing is.
func present(c *agentproto.Change) *agentproto.Change {
	if c == nil || c.Gone {
		return nil
	}
	return c
}

func fileState(c *agentproto.Change) *sandbox.FileState {
	if c == nil {
		return nil
	}
	s := &sandbox.FileState{Mode: c.Mode, Size: c.Size, UID: c.UID, GID: c.GID, ModTime: c.Modified, Target: c.Target}
	if c.Mode.Type()&(fs.ModeDir|fs.ModeSymlink) != 0 {
		s.Size = 0
	}
	return s
}
