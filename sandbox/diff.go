package sandbox

import (
	"context"
	"io/fs"
	"time"
)

// Differ is a Sandbox that tells how it and another one differ: usually one is a copy of the other, or both are copies of
// a third.
type Differ interface {
	// Diff compares the sandbox, A, with another one of the same system and image, B; any other gives an error that
	// wraps ErrInvalid. Both go on meanwhile: of a file that changes just then either state may be told.
	//
	// each is called for every path that differs, one at a time, in the order of a walk through the tree that takes
	// names as bytes; when it fails, Diff ends with that error, and returns beside it what is known by then, the memory
	// among it. What both have to say about their files is their own
	// word: names may hold any bytes but NUL and '/'. File systems that are mounted beside the root's (/proc, /dev,
	// /run) are left out, and so is what aether itself gives each copy: its machine ID and its agent.
	//
	// Times are not compared, nor are extended attributes. Of a directory that only one of them has, what was in it from
	// the image on need not be told one by one.
	Diff(ctx context.Context, other Sandbox, opt DiffOptions, each func(FileChange) error) (Diff, error)
}

// Bounds of a comparison, where its options have none.
const (
	DefaultDiffPaths = 200_000
	DefaultDiffBytes = 1 << 30
)

// DiffOptions bound a comparison. The zero value is usable.
type DiffOptions struct {
	// After is a path up to which, in the order of the walk, nothing is compared; empty is none.
	After string
	// Paths bounds how many paths are looked at; 0 is DefaultDiffPaths.
	Paths int
	// Bytes bounds how much content of files is read in each sandbox; 0 is DefaultDiffBytes. Files that are no longer read
	// have ContentUnknown.
	Bytes int64
}

// ChangeKind is what becomes of a path from A to B.
type ChangeKind string

// The kinds.
const (
	ChangeAdded   ChangeKind = "added"   // only B has it
	ChangeRemoved ChangeKind = "removed" // only A has it
	ChangeChanged ChangeKind = "changed" // both have it, in another way
)

// ContentState says whether two regular files hold the same.
type ContentState string

// The states.
const (
	ContentSame    ContentState = "same"
	ContentDiffers ContentState = "differs"
	// ContentUnknown is of files of one size that were not read to their ends: there was too much to read, or they
	// were being written.
	ContentUnknown ContentState = "unknown"
)

// FileState is what a file is in one of the sandboxes.
type FileState struct {
	Mode     fs.FileMode // type and permission bits
	Size     int64       // bytes
	UID, GID uint32
	ModTime  time.Time
	Target   string // of a symbolic link
}

// FileChange is a path that is not the same in both.
type FileChange struct {
	Path string
	// A and B say what is there; nil is nothing.
	A, B *FileState
	// Content is set if both are regular files.
	Content ContentState
}

// Kind tells which of them has the file.
func (c FileChange) Kind() ChangeKind {
	switch {
	case c.A == nil:
		return ChangeAdded
	case c.B == nil:
		return ChangeRemoved
	}
	return ChangeChanged
}

// Diff is what a comparison has found beside the changes themselves.
type Diff struct {
	// Paths is how many were looked at.
	Paths int
	// Skipped is how many directories were not looked into, because they are nested too deeply.
	Skipped int
	// Next is set if there was more than DiffOptions.Paths: the After of the next comparison. Empty means that it is
	// whole, but for Skipped.
	Next string
	// Memory is nil where the system cannot tell, for sandboxes without a common ancestor, and with DiffOptions.After.
	Memory *MemoryDiff
}

// MemoryDiff compares the memory of two guests with a common ancestor, in bytes, whole pages, by what their host knows
// without reading it. A page that was written counts, though it may hold what it held before, and so may its neighbours: the
// numbers are upper bounds.
type MemoryDiff struct {
	Total int64 // RAM of each
	// OwnA and OwnB are what each has written since the two parted.
	OwnA, OwnB int64
	// Differs is what may differ: either of them has written it. The rest is the same.
	Differs int64
}
