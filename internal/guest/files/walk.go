package files

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/sandbox"
)

const (
	// maxDepth is how many directories are nested that are looked into. Each takes two descriptors meanwhile.
	maxDepth = 200
	// maxWalk bounds the paths of one walk.
	maxWalk = 1 << 14
	// minNames is how many names of a directory are held at one time at least.
	minNames = 64
	// maxWalkBytes bounds the bytes of its paths and targets.
	maxWalkBytes = 4 << 20
)

// Walk lists up to limit paths that were written, but for the root, from behind the path after (empty: all), and says
// whether there are more. Of a directory that hides one of the image's, what it hides is told as gone. When each fails, so
// does Walk. Paths come in the order of a walk: a directory before what is in it, names as bytes.
func (t *Tree) Walk(after string, limit int, each func(agentproto.Change) error) (agentproto.Walked, error) {
	if after != "" {
		if err := sandbox.CheckPath(after); err != nil {
			return agentproto.Walked{}, err
		}
	}
	d, err := t.root()
	if err != nil {
		return agentproto.Walked{}, err
	}
	defer d.close()
	w := &walk{tree: t, left: min(max(limit, 1), maxWalk), bytes: maxWalkBytes, each: each}
	if err = w.dir(d, "", strings.Trim(after, "/"), 0); errors.Is(err, errFull) {
		w.Walked.More, err = true, nil
	}
	return w.Walked, err
}

// errFull ends a walk.
var errFull = errors.New("the walk has its paths")

type walk struct {
	agentproto.Walked
	tree  *Tree
	left  int // paths that may still be told
	bytes int // of them
	each  func(agentproto.Change) error
}

// dir walks a directory. after, relative to it, is up to where everything was told; empty is nothing.
func (w *walk) dir(d dir, full, after string, depth int) error {
	first, rest, _ := strings.Cut(after, "/")
	for from, again := first, false; ; again = true {
		// The names of all directories above are held meanwhile: the deeper it is, the fewer at a time.
		list, more, err := d.list(from, again, max(w.left>>depth, minNames))
		if err != nil {
			return err
		}
		for _, n := range list {
			told, below := !again && after != "" && n.name == first, ""
			if told {
				below = rest
			}
			if err := w.entry(d, n, full+"/"+n.name, told, below, depth); err != nil {
				return err
			}
			from = n.name
		}
		if !more {
			return nil
		}
	}
}

func (w *walk) entry(d dir, n listed, full string, told bool, below string, depth int) error {
	if n.hidden {
		if told {
			return nil
		}
		return w.tell(agentproto.Change{Path: full, Gone: true})
	}
	if w.tree.foreign[full] {
		return nil
	}
	c, s, err := state(d.upper, n.name, full)
	switch {
	case gone(err):
		return nil
	case err != nil:
		return err
	case w.tree.whiteout(&s):
		c = agentproto.Change{Path: full, Gone: true}
	}
	if !told {
		if err := w.tell(c); err != nil {
			return err
		}
	}
	if c.Gone || !c.Mode.IsDir() {
		return nil
	}
	if depth+1 >= maxDepth || len(full) > unix.PathMax/2 {
		w.Skipped++
		return nil
	}
	child, err := d.child(n.name, true)
	switch {
	case gone(err):
		return nil
	case errors.Is(err, fs.ErrPermission):
		w.Skipped++
		return nil
	case err != nil:
		return err
	}
	defer child.close()
	return w.dir(child, full, below, depth+1)
}

func (w *walk) tell(c agentproto.Change) error {
	if size := len(c.Path) + len(c.Target); w.left > 0 && size <= w.bytes {
		w.left--
		w.bytes -= size
		return w.each(c)
	}
	return errFull
}

// listed is a name in a directory.
type listed struct {
	name   string
	hidden bool // it is the image's, and does not show through
}

// list returns the first names of a directory from the name from on, or only those behind it, at most limit of them and one,
// and whether there are more. However many there are, it holds few of them.
func (d dir) list(from string, behind bool, limit int) (list []listed, cut bool, err error) {
	keep := limit + 1 // one may be told already
	squeeze := func() {
		slices.SortFunc(list, func(a, b listed) int {
			if c := strings.Compare(a.name, b.name); c != 0 || a.hidden == b.hidden {
				return c
			}
			return cmp.Compare(hiding(a), hiding(b))
		})
		list = slices.CompactFunc(list, func(a, b listed) bool { return a.name == b.name })
		if len(list) > keep {
			list, cut = list[:keep], true
		}
	}
	read := func(f *os.File, hidden bool) error {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		for {
			names, err := f.Readdirnames(1024)
			for _, n := range names {
				if n > from || n == from && !behind {
					list = append(list, listed{n, hidden})
				}
			}
			if len(list) > 2*keep {
				squeeze()
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
	err = read(d.upper, false)
	if err == nil && d.image != nil && !d.visible {
		err = read(d.image, true)
	}
	squeeze()
	return list, cut, err
}

func hiding(l listed) int {
	if l.hidden {
		return 1
	}
	return 0
}
