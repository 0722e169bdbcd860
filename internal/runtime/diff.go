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
// A result is a part if Next is set. What a sandbox says of its files is its own word. One of the two may be a snapshot.
func (s *Session) Diff(ctx context.Context, req DiffRequest) (res DiffResult, err error) {
	of, other := req.Sandbox, req.Other
	if IsSnapshotID(of) {
		of, other = other, of
	}
	ctx, c, err := s.call(ctx, "diff", of, CanRead)
	c.note("other", other)
	defer c.end(&err)
	if err != nil {
		return res, err
	}
	if err := req.check(c.op); err != nil {
		return res, err
	}
	if res, ok := s.laterPart(ctx, c.op, of, other, req); ok {
		return res, nil
	}
	most, names := req.Max, maxChangeBytes
	var sides [2]*side
	for i, id := range []string{req.Sandbox, req.Other} { // the sandboxes first: both sides end with either
		if IsSnapshotID(id) {
			continue
		}
		u, err := s.enter(ctx, c.op, id, forReading)
		if err != nil {
			return res, err
		}
		defer u.end()
		ctx, sides[i] = u.ctx, &side{u: u, raw: u.raw, system: u.b.driver.System(), digest: u.b.digest}
	}
	for i, id := range []string{req.Sandbox, req.Other} {
		if sides[i] != nil {
			continue
		}
		var done func()
		if sides[i], ctx, done, err = s.checkpoint(ctx, c.op, id, sides[1-i]); err != nil {
			return res, err
		}
		defer done()
		most, names = keptChanges, keptChangeBytes // as it would have to be restored for the next part
	}
	a, b := sides[0], sides[1]
	if !a.like(b) {
		return res, unlike(c.op)
	}
	differ, ok := a.raw.(sandbox.Differ)
	if !ok {
		return res, refuse(CodeUnsupported, c.op, "read the files that matter, in both", "%s cannot compare sandboxes here", a.system)
	}
	res = DiffResult{A: req.Sandbox, B: req.Other, Changes: []FileChange{}}
	all := &comparison{a: req.Sandbox, b: req.Other}
	done := s.r.drive(ctx, a.system, "diff")
	found, err := differ.Diff(ctx, b.raw, sandbox.DiffOptions{After: req.After}, all.collect(most, names))
	if errors.Is(err, errEnough) {
		err, found.Next = nil, all.next
	}
	if done(&err); err != nil {
		return DiffResult{}, whose(ctx, err, a, b)
	}
	all.next = found.Next
	if all.part(&res, 0, req.Max); res.Next != all.next {
		s.parts.keep(all)
	}
	res.Paths, res.Skipped = found.Paths, found.Skipped
	res.Memory = (*MemoryDiff)(found.Memory)
	return res, nil
}

func (req *DiffRequest) check(op string) error {
	switch {
	case req.Sandbox == req.Other:
		return refuse(CodeInvalid, op, "name two", "a sandbox is not compared with itself")
	case IsSnapshotID(req.Sandbox) && IsSnapshotID(req.Other):
		return refuse(CodeInvalid, op, "restore one of them, and compare that with the other", "both are snapshots")
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

// side is one of the two that are compared.
type side struct {
	u              *use // nil for a snapshot
	raw            sandbox.Sandbox
	system, digest string
}

func (a *side) like(b *side) bool { return a.system == b.system && a.digest == b.digest }

func (a *side) ended() bool { return a.u != nil && a.u.b.life.Err() != nil }

func unlike(op string) *Error {
	return refuse(CodeInvalid, op, "compare a sandbox with its copies, its snapshots, or with others of the same system and image", "the two are not of the same system and image")
}

// whose explains an error of what was done with two sandboxes by what became of the one that it is about.
func whose(ctx context.Context, err error, a, b *side) error {
	about := a
	if e, ok := errors.AsType[*sandbox.Error](err); ok && e.Sandbox == b.raw.ID() || !a.ended() && b.ended() {
		about = b
	}
	switch why, ok := errors.AsType[*Error](context.Cause(ctx)); {
	case about.u != nil:
		return about.u.b.reason(ctx, err)
	case ok:
		return why
	}
	return err
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
