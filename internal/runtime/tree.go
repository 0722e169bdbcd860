package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/aethervm/aether/internal/archive"
	"github.com/aethervm/aether/internal/guest/files"
	"github.com/aethervm/aether/internal/guestagent"
	"github.com/aethervm/aether/internal/head"
	"github.com/aethervm/aether/sandbox"
)

// TreeRequest names a directory of a sandbox.
type TreeRequest struct {
	Sandbox string
	Path    string // absolute
}

// maxTreeReport bounds what the agent says of a copy, in bytes.
const maxTreeReport = 256 << 10

// DownloadTree writes a directory with all that it holds to w, as a tar stream with names that begin in it. What cannot
// be read, and what is no file, directory or link, is left out, and in the report. The stream is the sandbox's word:
// whoever unpacks it must not trust its names (package archive).
func (s *Session) DownloadTree(ctx context.Context, req TreeRequest, w io.Writer) (report archive.Report, err error) {
	ctx, c, err := s.call(ctx, "read tree", req.Sandbox, CanRead)
	c.note("path", req.Path)
	defer c.end(&err)
	if err != nil {
		return report, err
	}
	if err := sandbox.CheckPath(req.Path); err != nil {
		return report, err
	}
	u, err := s.enter(ctx, c.op, req.Sandbox, forReading)
	if err != nil {
		return report, err
	}
	defer u.end()
	if err := u.isDir(c.op, req.Path); err != nil {
		return report, err
	}
	said := head.New(maxTreeReport)
	exit, err := u.sb.Exec(u.ctx, sandbox.Cmd{Args: []string{guestagent.Mount, "fs", "pack", req.Path}, Stdout: w, Stderr: said})
	if err = u.treeEnd(c.op, exit, err, said.Bytes(), said.Bytes(), &report); err == nil {
		c.note("bytes", strconv.FormatInt(report.Bytes, 10))
	}
	return report, err
}

// isDir tells early, where nothing was written yet, that a directory is none.
func (u *use) isDir(op, name string) error {
	info, err := u.sb.Stat(u.ctx, name)
	if err != nil {
		return u.b.reason(u.ctx, err)
	}
	if info = u.follow(name, info); !info.Mode.IsDir() {
		return refuse(CodeInvalid, op, "read it as a file", "%s is no directory", clip(name, 256))
	}
	return nil
}

// UploadTree reads a tar stream into a directory, which is made if there is none. Nothing is written outside the directory,
// whatever the names in the stream are. Files are whole or not there; when it fails, those that came before are there.
func (s *Session) UploadTree(ctx context.Context, req TreeRequest, r io.Reader) (report archive.Report, err error) {
	ctx, c, err := s.call(ctx, "write tree", req.Sandbox, CanExec)
	c.note("path", req.Path)
	defer c.end(&err)
	if err != nil {
		return report, err
	}
	if err := sandbox.CheckPath(req.Path); err != nil {
		return report, err
	}
	u, err := s.enter(ctx, c.op, req.Sandbox, forWork)
	if err != nil {
		return report, err
	}
	defer u.end()
	written, err := u.write()
	if err != nil {
		return report, err
	}
	defer written()
	from := &counted{r: r}
	out, said := head.New(maxTreeReport), head.New(maxTreeReport)
	exit, err := u.sb.Exec(u.ctx, sandbox.Cmd{Args: []string{guestagent.Mount, "fs", "unpack", req.Path}, Stdin: from, Stdout: out, Stderr: said})
	size, why := from.end()
	c.note("bytes", strconv.FormatInt(size, 10))
	if why != nil { // the rest is what it led to
		return report, u.b.reason(u.ctx, why)
	}
	err = u.treeEnd(c.op, exit, err, out.Bytes(), said.Bytes(), &report)
	return report, err
}

// treeEnd reads what the agent, or who has taken its place, says of a copy.
func (u *use) treeEnd(op string, exit sandbox.Exit, err error, report, failure []byte, into *archive.Report) error {
	if err != nil {
		return u.b.reason(u.ctx, err)
	}
	if exit.Success() {
		if json.Unmarshal(report, into) != nil || into.Bytes < 0 || into.Files < 0 || into.Entries < 0 || into.SkippedMore < 0 {
			*into = archive.Report{}
			return refuse(CodeInternal, op, "copy it again, or look at the sandbox", "the sandbox does not say what was copied")
		}
		into.Bound()
		return nil
	}
	var f files.Failure
	if json.Unmarshal(failure, &f) != nil || f.Kind == "" {
		return refuse(CodeInternal, op, "look at the sandbox", "the copy has failed: %s: %s", exit, clip(strings.TrimSpace(string(failure)), 256))
	}
	if f.Kind == files.KindOther { // an archive that is broken or hostile, above all
		return refuse(CodeInvalid, op, "look at the archive", "%s", clip(f.Message, 512))
	}
	failed := f.Err(op, "", u.b.id)
	if errors.Is(failed, fs.ErrExist) {
		return refuse(CodeInvalid, op, "choose another directory", "%s", clip(f.Message, 512))
	}
	return u.b.reason(u.ctx, failed)
}
