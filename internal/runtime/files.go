package runtime

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/aethervm/aether/internal/head"
	"github.com/aethervm/aether/sandbox"
)

const (
	defaultMode  = 0o644
	maxEntries   = 1000
	mkdirTimeout = 30 * time.Second
)

// Read reads a range of a file, or lists a directory.
func (s *Session) Read(ctx context.Context, req ReadRequest) (res ReadResult, err error) {
	ctx, c, err := s.call(ctx, "read", req.Sandbox, CanRead)
	c.note("path", req.Path)
	defer c.end(&err)
	if err != nil {
		return res, err
	}
	if err := sandbox.CheckPath(req.Path); err != nil {
		return res, err
	}
	if req.Max < 0 {
		return res, refuse(CodeInvalid, c.op, "give zero for the default", "the size is negative")
	}
	if req.Sandbox == "" && !s.can(CanExec) {
		return res, refuse(CodeDenied, c.op, "name a sandbox", "making one needs capability %q", CanExec)
	}
	b, done, err := s.target(ctx, c, req.Sandbox, req.Ephemeral)
	if err != nil {
		return res, err
	}
	defer done(&err)
	u, err := s.enterBox(ctx, c.op, b, forReading)
	if err != nil {
		return res, err
	}
	defer u.end()
	res, err = s.read(u, c.op, req)
	res.Sandbox, res.Path = b.id, req.Path
	return res, b.reason(u.ctx, err)
}

func (s *Session) read(u *use, op string, req ReadRequest) (res ReadResult, err error) {
	info, err := u.sb.Stat(u.ctx, req.Path)
	if err != nil {
		return res, err
	}
	info = u.follow(req.Path, info)
	res.Mode = info.Mode.String()
	if info.Mode.IsDir() {
		return s.readDir(u, op, req, res)
	}
	size := req.Max
	if size == 0 || size > s.r.limits.ReadSize {
		size = s.r.limits.ReadSize
	}
	from := req.Offset
	if from < 0 { // from the end
		if !info.Mode.IsRegular() {
			return res, refuse(CodeInvalid, op, "begin at the beginning, or name the file that it leads to", "how long it is shows only when it is read")
		}
		from = max(0, info.Size+from)
	}
	w, err := u.window(op, req.Path, info, from, size)
	if err != nil {
		return res, err
	}
	res.Offset = min(w.from, w.at)
	data := w.data
	if w.more { // a character that is cut in two comes whole the next time
		if whole := wholeRunes(data); len(whole) > 0 {
			data = whole
		}
		next := res.Offset + int64(len(data))
		res.Next = &next
	}
	res.Size = w.at
	if w.more && info.Mode.IsRegular() {
		res.Size = max(info.Size, w.at)
	}
	res.Text, res.Encoding = textOf(data)
	return res, nil
}

func (s *Session) readDir(u *use, op string, req ReadRequest, res ReadResult) (ReadResult, error) {
	list, err := u.sb.ReadDir(u.ctx, req.Path)
	if err != nil {
		return res, err
	}
	if req.Offset < 0 {
		return res, refuse(CodeInvalid, op, "begin with 0", "the offset of a directory is negative")
	}
	size := req.Max
	if size == 0 || size > maxEntries {
		size = maxEntries
	}
	res.Dir, res.Size, res.Offset = true, int64(len(list)), min(req.Offset, int64(len(list)))
	end := min(int64(len(list)), res.Offset+int64(size))
	if end < int64(len(list)) {
		res.Next = &end
	}
	res.Entries = []Entry{}
	for _, f := range list[res.Offset:end] {
		res.Entries = append(res.Entries, entryOf(f))
	}
	return res, nil
}

func entryOf(f sandbox.FileInfo) Entry {
	e := Entry{Name: validText(f.Name), Type: "other", Size: f.Size, Mode: f.Mode.String(), Modified: f.ModTime.UTC(), Target: validText(f.Target)}
	switch {
	case f.Mode.IsRegular():
		e.Type = "file"
	case f.Mode.IsDir():
		e.Type = "dir"
	case f.Mode&fs.ModeSymlink != 0:
		e.Type = "link"
	}
	return e
}

// Write writes a file whole, or edits one by replacing text that matches exactly. A file changes
// whole or not at all; edits of one sandbox's files by Write do not overtake each other.
func (s *Session) Write(ctx context.Context, req WriteRequest) (res WriteResult, err error) {
	ctx, c, err := s.call(ctx, "write", req.Sandbox, CanExec)
	c.note("path", req.Path)
	defer c.end(&err)
	if err != nil {
		return res, err
	}
	if err := req.check(c.op); err != nil {
		return res, err
	}
	data, err := req.data(c.op)
	if err != nil {
		return res, err
	}
	if req.Sandbox == "" {
		return res, refuse(CodeInvalid, c.op, "create a sandbox first", "no sandbox is named")
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
	res = WriteResult{Sandbox: u.b.id, Path: req.Path}
	if len(req.Edits) > 0 {
		if data, err = s.edit(u, c.op, req, &res); err != nil {
			return res, u.b.reason(u.ctx, err)
		}
	}
	res.Size = int64(len(data))
	return res, u.b.reason(u.ctx, put(u, req.Path, data, fs.FileMode(req.Mode)))
}

func (req *WriteRequest) check(op string) error {
	if err := sandbox.CheckPath(req.Path); err != nil {
		return err
	}
	switch {
	case req.Mode > 0o777:
		return refuse(CodeInvalid, op, "give permission bits, such as 0644", "the mode is %#o", req.Mode)
	case len(req.Edits) > 0 && (req.Text != "" || req.Encoding != ""):
		return refuse(CodeInvalid, op, "give one of them", "there are both a text and edits")
	}
	for i, e := range req.Edits {
		if e.Old == "" {
			return refuse(CodeInvalid, op, "give the text to replace, or write the whole file", "edit %d: old is empty", i)
		}
		if e.Old == e.New {
			return refuse(CodeInvalid, op, "leave it out", "edit %d: old and new are the same", i)
		}
	}
	return nil
}

func (req *WriteRequest) data(op string) ([]byte, error) {
	switch req.Encoding {
	case "":
		return []byte(req.Text), nil
	case "base64":
		data, err := base64.StdEncoding.DecodeString(req.Text)
		if err != nil {
			return nil, refuse(CodeInvalid, op, "encode it with padding, or leave the encoding out", "the text is no base64: %v", err)
		}
		return data, nil
	}
	return nil, refuse(CodeInvalid, op, "use base64, or none for UTF-8", "the encoding is %q", clip(req.Encoding, 32))
}

// put writes a file, and makes the directories above it if they are missing. mode 0 keeps that of a
// file that is there.
func put(u *use, name string, data []byte, mode fs.FileMode) error {
	mode, err := modeFor(u, name, mode)
	if err != nil {
		return err
	}
	write := func() error { return u.sb.WriteFile(u.ctx, name, bytes.NewReader(data), mode) }
	if err = write(); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDir(u, path.Dir(name), err); err != nil {
		return err
	}
	return write()
}

// modeFor is the mode to write a file with: 0 means that of the file that is there, or the default.
func modeFor(u *use, name string, mode fs.FileMode) (fs.FileMode, error) {
	if mode != 0 {
		return mode, nil
	}
	info, err := u.sb.Stat(u.ctx, name)
	switch {
	case err == nil && info.Mode.IsRegular():
		return info.Mode.Perm(), nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return 0, err
	}
	return defaultMode, nil
}

// makeDir makes a directory and those above it. missing is the error that says that it is not there: it is what remains
// where the image has nothing to make one with.
func makeDir(u *use, dir string, missing error) error {
	said := head.New(1 << 10)
	exit, err := u.sb.Exec(u.ctx, sandbox.Cmd{Args: []string{"mkdir", "-p", "--", dir},
		Stderr: said, Timeout: mkdirTimeout})
	switch {
	case errors.Is(err, sandbox.ErrCannotRun):
		return missing
	case err != nil:
		return err
	case !exit.Success():
		return refuse(CodePermission, "write", "choose another directory; /tmp can be written to in every sandbox",
			"the directory cannot be made: %s", clip(strings.TrimSpace(said.String()), 512))
	}
	return nil
}

// edit reads the file and applies the edits in memory.
func (s *Session) edit(u *use, op string, req WriteRequest, res *WriteResult) ([]byte, error) {
	limit := s.r.limits.FileSize
	w := &window{size: limit}
	err := u.sb.ReadFile(u.ctx, req.Path, w)
	if w.more {
		return nil, refuse(CodeInvalid, op, "edit it with a program, by run", "the file is larger than %d bytes", limit)
	}
	if err != nil {
		return nil, err
	}
	data := w.data
	for i, e := range req.Edits {
		at, n := bytes.Index(data, []byte(e.Old)), bytes.Count(data, []byte(e.Old))
		switch {
		case n == 0:
			return nil, refuse(CodeConflict, op, "read the file and copy the text as it is, with its white space", "edit %d: the old text is not in the file%s", i, near(data, e.Old))
		case n > 1 && !e.All:
			return nil, refuse(CodeConflict, op, "add lines around it until it is found once, or replace all", "edit %d: the old text is there %d times, on lines %s", i, n, linesOf(data, e.Old))
		}
		if i == 0 {
			res.Line = 1 + bytes.Count(data[:at], []byte("\n"))
		}
		if grown := len(e.New) - len(e.Old); grown > 0 && n > (limit-len(data))/grown {
			return nil, refuse(CodeInvalid, op, "edit it with a program, by run", "edit %d makes the file larger than %d bytes", i, limit)
		}
		res.Replaced += n
		data = bytes.ReplaceAll(data, []byte(e.Old), []byte(e.New))
	}
	return data, nil
}

// near says where the first line of a text that was not found is, if it is somewhere.
func near(data []byte, old string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(old), "\n")
	if first = strings.TrimSpace(first); first == "" {
		return ""
	}
	if lines := linesOf(data, first); lines != "" {
		return fmt.Sprintf("; its first line is found on line %s", lines)
	}
	return ""
}

// linesOf lists the lines on which a text is found, up to five.
func linesOf(data []byte, text string) string {
	var lines []string
	line, from := 1, 0
	for {
		i := bytes.Index(data[from:], []byte(text))
		if i < 0 {
			break
		}
		if len(lines) == 5 {
			lines = append(lines, "...")
			break
		}
		line += bytes.Count(data[from:from+i], []byte("\n"))
		lines = append(lines, fmt.Sprint(line))
		line += strings.Count(text, "\n")
		from += i + len(text)
	}
	return strings.Join(lines, ", ")
}
