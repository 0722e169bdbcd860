package runtime

import (
	"time"

	"github.com/aethervm/aether/sandbox"
)

// DiffRequest is what Diff takes.
type DiffRequest struct {
	// Sandbox and Other are A and B: two of this session, of one system and image. One of them may be the ID of a snapshot of the
	// tenant. It is restored for the time of the comparison, which needs CanFork, and a sandbox of the budget; programs that the
	// snapshot has go on meanwhile. Later parts, up to 10,000 changes and 4 MiB of names together, are of that comparison, unless
	// more than a minute passes between two of them.
	Sandbox string `json:"sandbox"`
	Other   string `json:"other"`
	// After is the Next of the part before; empty is the beginning.
	After string `json:"after,omitempty"`
	// Max bounds the changes of the result, up to 1000; 0 means 1000.
	Max int `json:"max,omitempty"`
}

// DiffResult is what Diff returns.
type DiffResult struct {
	A string `json:"a"`
	B string `json:"b"`
	// Changes are in the order of a walk through the tree, from A to B.
	Changes []FileChange `json:"changes"`
	// Next is the path behind which there may be more changes; empty if there is none. It may hold any bytes.
	Next string `json:"-"`
	// Paths is how many were looked at for this part, Skipped how many directories were too deep to be looked into.
	Paths   int `json:"paths"`
	Skipped int `json:"skipped,omitempty"`
	// Memory is part of the first part only, and missing where the system cannot tell.
	Memory *MemoryDiff `json:"memory,omitempty"`
}

// FileChange is a path that is not the same in both.
type FileChange struct {
	Path string `json:"path"`
	// PathBase64 has the bytes of a path that is not UTF-8, of which Path shows what can be shown.
	PathBase64 string             `json:"path_base64,omitempty"`
	Kind       sandbox.ChangeKind `json:"kind" enum:"added,removed,changed"`
	// Content is set if both are regular files.
	Content sandbox.ContentState `json:"content,omitempty" enum:"same,differs,unknown"`
	// A and B are what it is in each; nil where it is not.
	A *FileState `json:"a,omitempty"`
	B *FileState `json:"b,omitempty"`
}

// FileState is what a file is in one of the two.
type FileState struct {
	Type     string    `json:"type"` // "file", "dir", "link" or "other"
	Size     int64     `json:"size"`
	Mode     string    `json:"mode"`
	UID      uint32    `json:"uid"`
	GID      uint32    `json:"gid"`
	Modified time.Time `json:"modified"`
	Target   string    `json:"target,omitempty"` // of a link
}

// MemoryDiff is what their host knows of the memory of both, in bytes: how much each has written since they parted, and how
// much may therefore differ. A page that was written counts, though it may hold what it held before.
type MemoryDiff struct {
	Total   int64 `json:"total_bytes"` // RAM of each
	OwnA    int64 `json:"own_a_bytes"`
	OwnB    int64 `json:"own_b_bytes"`
	Differs int64 `json:"differs_bytes"`
}
