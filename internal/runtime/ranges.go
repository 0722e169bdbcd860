package runtime

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/aethervm/aether/sandbox"
)

const (
	// maxSkip is how far into a file a range may begin, in bytes, where what comes before it has to be read and
	// dropped.
	maxSkip = 1 << 30
	// maxLinks is how many links in a row are followed to find a file's size.
	maxLinks = 8
)

// follow describes what a link leads to, if that can be found out, else the link itself.
func (u *use) follow(name string, info sandbox.FileInfo) sandbox.FileInfo {
	at, link := name, info
	for range maxLinks {
		if link.Mode&fs.ModeSymlink == 0 {
			return link
		}
		// What a directory's link leads to shows by the element behind it.
		if dir, err := u.sb.Stat(u.ctx, strings.TrimSuffix(at, "/")+"/."); err == nil {
			return dir
		}
		if at = link.Target; !path.IsAbs(at) {
			at = path.Dir(name) + "/" + link.Target
		}
		name = at
		next, err := u.sb.Stat(u.ctx, at) // no ".." is taken
		if err != nil {
			break
		}
		link = next
	}
	return info
}

// window reads a range of a file.
func (u *use) window(op, name string, info sandbox.FileInfo, from int64, size int) (*window, error) {
	if reader, ok := u.raw.(sandbox.RangeReader); ok && from > 0 {
		w := &window{from: from, at: from, size: size}
		done := u.b.drive(u.ctx, "read")
		err := reader.ReadRange(u.ctx, name, from, int64(size)+1, w)
		if errors.Is(err, errEnough) {
			err = nil
		}
		done(&err)
		switch {
		case err != nil || w.at > from:
			return w, err
		case info.Mode.IsRegular() && info.Size > 0:
			w.at = min(from, info.Size)
			return w, nil
		}
		// It ends before, and does not say where.
	}
	if from > maxSkip {
		return nil, refuse(CodeInvalid, op, "read it with a program, by run: tail, dd", "the range begins after %d bytes", int64(maxSkip))
	}
	w := &window{from: from, size: size}
	if err := u.sb.ReadFile(u.ctx, name, w); err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return w, nil
}

// errEnough ends the reading of a file of which no more is wanted.
var errEnough = errors.New("enough")

// window keeps a range of what is written to it.
type window struct {
	from int64
	size int

	at   int64 // where the next byte belongs; at the end, how much there was
	data []byte
	more bool
}

func (w *window) Write(p []byte) (int, error) {
	n := len(p)
	at := w.at
	w.at += int64(n)
	if skip := w.from - at; skip > 0 {
		if skip >= int64(n) {
			return n, nil
		}
		p = p[skip:]
	}
	room := w.size - len(w.data)
	if len(p) > room {
		w.data, w.more = append(w.data, p[:room]...), true
		return n, errEnough
	}
	w.data = append(w.data, p...)
	return n, nil
}
