package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/archive"
	"github.com/aethervm/aether/internal/client"
)

// isTree tells whether a source is a directory, or a stream of one.
func isTree(ctx context.Context, c *client.Client, from, to place) (bool, error) {
	if from.path == "-" && from.sandbox == "" {
		return to.sandbox != "", nil
	}
	return isDir(ctx, c, from)
}

// copyTree copies a directory to where it is to be. into tells that the destination is a directory that is there, or is to
// be one that others come into too.
func (a *app) copyTree(ctx context.Context, c *client.Client, from, to place, into bool) error {
	contents := from.path == "-" || from.path == "." || strings.HasSuffix(from.path, "/.")
	name := path.Base(path.Clean(from.path))
	if !into || contents || name == "/" || name == ".." {
		name = ""
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	progress := a.countBytes(fmt.Sprintf("%s to %s", from, to))
	defer progress.end()
	r, w := io.Pipe()
	sent := make(chan sentTree, 1)
	go func() {
		report, err := a.sendTree(ctx, c, from, w)
		_ = w.CloseWithError(err) // takeTree has it then
		sent <- sentTree{report, err}
	}()
	report, err := a.takeTree(ctx, c, to, name, progress.reader(r))
	_ = r.Close()
	if err != nil {
		return err // whoever sends may be reading what never comes
	}
	var source sentTree
	select {
	case source = <-sent:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	progress.end()
	if source.err != nil {
		return source.err
	}
	return a.tellSkipped(from, to, source.report, report)
}

// sentTree is what was sent.
type sentTree struct {
	report archive.Report
	err    error
}

func (a *app) sendTree(ctx context.Context, c *client.Client, from place, w io.Writer) (report archive.Report, err error) {
	switch {
	case from.sandbox != "":
		return c.DownloadTree(ctx, from.sandbox, from.path, w)
	case from.path == "-":
		_, err = io.Copy(w, a.in)
		return report, err
	}
	return archive.Pack(w, from.path)
}

// takeTree takes a directory as the destination or, if name is not empty, beneath it.
func (a *app) takeTree(ctx context.Context, c *client.Client, to place, name string, r io.Reader) (report archive.Report, err error) {
	switch {
	case to.sandbox != "":
		return c.UploadTree(ctx, to.sandbox, path.Join(to.path, name), r)
	case to.path == "-":
		_, err = io.Copy(a.out, r)
		return report, err
	}
	root, options, err := openDestination(to.path, name)
	if err != nil {
		return report, err
	}
	defer func() { _ = root.Close() }()
	report, err = archive.UnpackRoot(r, root, options)
	if err == nil {
		err = readRest(r)
	}
	return report, err
}

// openDestination opens the directory that others come into, and makes it if it is not there. The user has typed dir, and
// may have meant a link. A link in it may be a sandbox's, and is not followed.
func openDestination(dir, name string) (*os.Root, archive.Options, error) {
	var options archive.Options
	if name == "" {
		err := os.Mkdir(dir, 0o755)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, options, err
		}
		options.Fresh = err == nil
		root, err := os.OpenRoot(dir)
		return root, options, err
	}
	outer, err := os.OpenRoot(dir)
	if err != nil {
		return nil, options, err
	}
	defer func() { _ = outer.Close() }()
	err = outer.Mkdir(name, 0o755)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, options, err
	}
	options.Fresh = err == nil
	info, err := outer.Lstat(name)
	if err != nil {
		return nil, options, err
	}
	if !info.IsDir() {
		return nil, options, failed(nil, "remove it, or give another destination", "%s is there, and no directory", path.Join(dir, name))
	}
	root, err := outer.OpenRoot(name)
	return root, options, err
}

// maxRest bounds what may follow an archive's end, in bytes: zeros that fill its last block.
const maxRest = 1 << 20

// readRest reads what follows an archive's end, so that its sender ends too.
func readRest(r io.Reader) error {
	n, err := io.Copy(io.Discard, io.LimitReader(r, maxRest+1))
	if err == nil && n > maxRest {
		err = fmt.Errorf("%w: it goes on behind its end", archive.ErrHostile)
	}
	return err
}

// tellSkipped says what was left out, here or there.
func (a *app) tellSkipped(from, to place, reports ...archive.Report) error {
	n := 0
	for _, r := range reports {
		for _, s := range r.Skipped {
			a.notice("left out: %q: %q", s.Path, s.Why)
		}
		if r.SkippedMore > 0 {
			a.notice("left out: %d more", r.SkippedMore)
		}
		n += len(r.Skipped) + r.SkippedMore
	}
	if n > 0 {
		return failed(nil, "", "%s to %s: %s not copied, all else was", from, to, count(n, "entry was", "entries were"))
	}
	return nil
}

// byteCount shows on a terminal how much was copied.
type byteCount struct {
	w     io.Writer // nil: nobody is shown
	what  string
	n     int64
	shown time.Time
	began time.Time
	once  sync.Once
}

func (a *app) countBytes(what string) *byteCount {
	b := &byteCount{what: what, began: time.Now()}
	if terminalOf(a.err) != nil && terminalOf(a.out) != nil { // not between the lines of a stream
		b.w = a.err
	}
	return b
}

// reader counts what is read of r, by one goroutine.
func (b *byteCount) reader(r io.Reader) io.Reader { return &countedReader{r, b} }

type countedReader struct {
	r io.Reader
	b *byteCount
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.b.add(n)
	return n, err
}

const (
	progressAfter = time.Second
	progressEvery = 200 * time.Millisecond
)

func (b *byteCount) add(n int) {
	b.n += int64(n)
	if now := time.Now(); b.w != nil && now.Sub(b.began) > progressAfter && now.Sub(b.shown) > progressEvery {
		b.shown = now
		fmt.Fprintf(b.w, "\r\x1b[K%.60q: %.1f MiB", b.what, float64(b.n)/(1<<20))
	}
}

// end wipes it away. It may be called again.
func (b *byteCount) end() {
	b.once.Do(func() {
		if b.w != nil && !b.shown.IsZero() {
			fmt.Fprint(b.w, "\r\x1b[K")
		}
	})
}
