package runtime

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strconv"
	"sync"

	"github.com/aethervm/aether/sandbox"
)

// DownloadRequest is what Download takes.
type DownloadRequest struct {
	Sandbox string
	Path    string // absolute
	// Offset is where to begin, in bytes, and Size how many are wanted; 0 means all that follow.
	Offset, Size int64
}

// Download copies a file, or a part of it, to w. Unlike Read it has no bound.
func (s *Session) Download(ctx context.Context, req DownloadRequest, w io.Writer) (err error) {
	ctx, c, err := s.call(ctx, "read", req.Sandbox, CanRead)
	c.note("path", req.Path)
	defer c.end(&err)
	if err != nil {
		return err
	}
	if err := sandbox.CheckPath(req.Path); err != nil {
		return err
	}
	if req.Offset < 0 || req.Size < 0 {
		return refuse(CodeInvalid, c.op, "give zero for the beginning, and for all", "the offset or the size is negative")
	}
	u, err := s.enter(ctx, c.op, req.Sandbox, forReading)
	if err != nil {
		return err
	}
	defer u.end()
	return u.b.reason(u.ctx, u.download(c.op, req, w))
}

func (u *use) download(op string, req DownloadRequest, w io.Writer) error {
	if reader, ok := u.raw.(sandbox.RangeReader); ok && req.Size > 0 {
		done := u.b.drive(u.ctx, "read")
		err := reader.ReadRange(u.ctx, req.Path, req.Offset, req.Size, w)
		done(&err)
		return err
	}
	if req.Offset > maxSkip {
		return refuse(CodeInvalid, op, "read it with a program, by run: tail, dd", "the range begins after %d bytes", int64(maxSkip))
	}
	part := &part{w: w, skip: req.Offset, left: req.Size, all: req.Size == 0}
	err := u.sb.ReadFile(u.ctx, req.Path, part)
	if errors.Is(err, errEnough) && !part.all && part.left == 0 {
		return nil
	}
	return err
}

// part passes on a range of what is written to it, and ends the reading behind it.
type part struct {
	w          io.Writer
	skip, left int64
	all        bool
}

func (p *part) Write(data []byte) (int, error) {
	n := len(data)
	skip := min(p.skip, int64(n))
	p.skip -= skip
	data = data[skip:]
	if !p.all && int64(len(data)) > p.left {
		data = data[:p.left]
	}
	if len(data) > 0 {
		if _, err := p.w.Write(data); err != nil {
			return 0, err
		}
	}
	if p.all {
		return n, nil
	}
	if p.left -= int64(len(data)); p.left == 0 && p.skip == 0 {
		return n, errEnough
	}
	return n, nil
}

// UploadRequest is what Upload takes.
type UploadRequest struct {
	Sandbox string
	Path    string // absolute; missing directories are made
	// Mode holds permission bits; 0 means 0644, or those that the file has.
	Mode uint32
}

// Upload writes a file, whole or not at all, from r. Unlike Write it has no bound of its own: a caller that reads from
// somebody else's connection has one. When it fails, one Read of r may go on still; none begins any more.
func (s *Session) Upload(ctx context.Context, req UploadRequest, r io.Reader) (res WriteResult, err error) {
	ctx, c, err := s.call(ctx, "write", req.Sandbox, CanExec)
	c.note("path", req.Path)
	defer c.end(&err)
	if err != nil {
		return res, err
	}
	if err := (&WriteRequest{Path: req.Path, Mode: req.Mode}).check(c.op); err != nil {
		return res, err
	}
	u, err := s.enter(ctx, c.op, req.Sandbox, forWork)
	if err != nil {
		return res, err
	}
	defer u.end()
	written, err := u.write()
	if err != nil {
		return res, err
	}
	defer written()
	size, err := u.upload(req, r)
	c.note("bytes", strconv.FormatInt(size, 10))
	return WriteResult{Sandbox: u.b.id, Path: req.Path, Size: size}, u.b.reason(u.ctx, err)
}

func (u *use) upload(req UploadRequest, r io.Reader) (size int64, err error) {
	mode, err := modeFor(u, req.Path, fs.FileMode(req.Mode))
	if err != nil {
		return 0, err
	}
	// What is read from r cannot be written a second time, so the directory is looked for first.
	dir := path.Dir(req.Path)
	if _, err := u.sb.Stat(u.ctx, dir); errors.Is(err, fs.ErrNotExist) {
		err = makeDir(u, dir, err)
		if err != nil {
			return 0, err
		}
	}
	from := &counted{r: r}
	err = u.sb.WriteFile(u.ctx, req.Path, from, mode)
	size, why := from.end()
	if why != nil { // the rest is what it led to
		err = why
	}
	return size, err
}

// counted counts what is read, and keeps the error that ended it. A system that has failed may be reading still.
type counted struct {
	r io.Reader

	mu    sync.Mutex
	n     int64
	err   error
	ended bool
}

func (c *counted) Read(p []byte) (int, error) {
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	if ended {
		return 0, errEnough
	}
	n, err := c.r.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// end has no more read, and tells what was.
func (c *counted) end() (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	return c.n, c.err
}

// Stat describes a file, or what a link to one leads to.
func (s *Session) Stat(ctx context.Context, sandboxID, name string) (e Entry, err error) {
	ctx, c, err := s.call(ctx, "stat", sandboxID, CanRead)
	c.quiet = true
	c.note("path", name)
	defer c.end(&err)
	if err != nil {
		return e, err
	}
	if err := sandbox.CheckPath(name); err != nil {
		return e, err
	}
	u, err := s.enter(ctx, c.op, sandboxID, forReading)
	if err != nil {
		return e, err
	}
	defer u.end()
	info, err := u.sb.Stat(u.ctx, name)
	if err != nil {
		return e, u.b.reason(u.ctx, err)
	}
	return entryOf(u.follow(name, info)), nil
}

// Remove deletes a file, or a directory with all it holds. A link is removed, not followed.
func (s *Session) Remove(ctx context.Context, sandboxID, name string) (err error) {
	ctx, c, err := s.call(ctx, "remove", sandboxID, CanExec)
	c.note("path", name)
	defer c.end(&err)
	if err != nil {
		return err
	}
	if err := sandbox.CheckPath(name); err != nil {
		return err
	}
	u, err := s.enter(ctx, c.op, sandboxID, forWork)
	if err != nil {
		return err
	}
	defer u.end()
	return u.b.reason(u.ctx, u.sb.Remove(u.ctx, name))
}
