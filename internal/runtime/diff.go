package runtime

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/aethervm/aether/sandbox"
)

const (
	maxChanges = 1000
	// maxChangeBytes bounds the names of a result: what sandboxes call their files is their own choice.
	maxChangeBytes = 1 << 20
)

// Diff compares two sandboxes of the session: their files and, where the system can tell, how much of their memory. Both go on.
// A result is a part if Next is set. What a sandbox says of its files is its own word.
func (s *Session) Diff(ctx context.Context, req DiffRequest) (res DiffResult, err error) {
	ctx, c, err := s.call(ctx, "diff", req.Sandbox, CanRead)
	c.note("other", req.Other)
	defer c.end(&err)
	if err != nil {
		return res, err
	}
	if err := req.check(c.op); err != nil {
		return res, err
	}
	a, err := s.enter(ctx, c.op, req.Sandbox, forReading)
	if err != nil {
		return res, err
	}
	defer a.end()
	b, err := s.enter(a.ctx, c.op, req.Other, forReading) // and both end with either
	if err != nil {
		return res, err
	}
	defer b.end()
	if a.b.driver != b.b.driver || a.b.digest != b.b.digest {
		return res, refuse(CodeInvalid, c.op, "compare a sandbox with its copies, or with others of the same system and image", "the two are not of the same system and image")
	}
	differ, ok := a.raw.(sandbox.Differ)
	if !ok {
		return res, refuse(CodeUnsupported, c.op, "read the files that matter, in both", "%s cannot compare sandboxes here", a.b.driver.System())
	}
	res = DiffResult{A: a.b.id, B: b.b.id, Changes: []FileChange{}}
	size, last := 0, ""
	done := a.b.drive(b.ctx, "diff")
	found, err := differ.Diff(b.ctx, b.raw, sandbox.DiffOptions{After: req.After}, func(f sandbox.FileChange) error {
		if size += sizeOf(f); len(res.Changes) == req.Max || size > maxChangeBytes && len(res.Changes) > 0 {
			return errEnough
		}
		res.Changes, last = append(res.Changes, changeOf(f)), f.Path
		return nil
	})
	if errors.Is(err, errEnough) {
		err, found.Next = nil, last
	}
	if done(&err); err != nil {
		return DiffResult{}, whose(err, a, b)
	}
	res.Next, res.Paths, res.Skipped = found.Next, found.Paths, found.Skipped
	res.Memory = (*MemoryDiff)(found.Memory)
	return res, nil
}

func (req *DiffRequest) check(op string) error {
	switch {
	case req.Sandbox == req.Other:
		return refuse(CodeInvalid, op, "name two", "a sandbox is not compared with itself")
	case req.Max < 0 || req.Max > maxChanges:
		return refuse(CodeInvalid, op, fmt.Sprintf("ask for 1 to %d, or leave it out", maxChanges), "the number of changes is %d", req.Max)
	}
	if req.Max == 0 {
		req.Max = maxChanges
	}
	if req.After != "" {
		return sandbox.CheckPath(req.After)
	}
	return nil
}

// whose explains an error of what was done with two sandboxes by what became of the one that it is about.
func whose(err error, a, b *use) error {
	if e, ok := errors.AsType[*sandbox.Error](err); ok && e.Sandbox == b.raw.ID() || a.b.life.Err() == nil && b.b.life.Err() != nil {
		return b.b.reason(b.ctx, err)
	}
	return a.b.reason(b.ctx, err)
}

func sizeOf(f sandbox.FileChange) int {
	n := len(f.Path)
	for _, s := range []*sandbox.FileState{f.A, f.B} {
		if s != nil {
			n += len(s.Target)
		}
	}
	return n
}

func changeOf(f sandbox.FileChange) FileChange {
	c := FileChange{Path: validText(f.Path), Kind: f.Kind(), Content: f.Content, A: stateOf(f.A), B: stateOf(f.B)}
	if !utf8.ValidString(f.Path) {
		c.PathBase64 = base64.StdEncoding.EncodeToString([]byte(f.Path))
	}
	return c
}

func stateOf(s *sandbox.FileState) *FileState {
	if s == nil {
		return nil
	}
	e := entryOf(sandbox.FileInfo{Size: s.Size, Mode: s.Mode, ModTime: s.ModTime, Target: s.Target})
	return &FileState{Type: e.Type, Size: e.Size, Mode: e.Mode, UID: s.UID, GID: s.GID, Modified: e.Modified, Target: e.Target}
}
