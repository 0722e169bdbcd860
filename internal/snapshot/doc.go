// Package snapshot is the file in which a virtual machine is kept on disk.
//
// A file may lean on others, its bases: memory that it has in common with them is not in it. It names them by their digests
// ([About.Bases]); which run of memory is in which file is part of the state. It needs of a base its memory only, and all that
// it needs it names itself, whatever bases its bases have. All numbers are little-endian.
//
//	0     header, one page: magic, version, where everything is, a SHA-256 of each section and of itself
//	4096  memory: the pages of RAM that are not zero, in ascending order, in whole pages
//	      about: what the machine is and needs (About)
//	      state: processors, devices, and which run of memory is where; opaque here
//	      prefetch: the runs of RAM that a copy touches first
//	      sums: a SHA-256 for each BlockSize bytes of memory
//
// Memory can be mapped as it is, page by page, so that the cost of opening a file does not depend on
// it: Open reads and checks all but the memory, and Verify checks that as well. The header's own digest covers
// the digests of all the rest, so it names the content ([File.Digest]).
//
// A file is written under a temporary name, and gets its own when all of it is on disk. Nothing writes to it
// afterwards: machines that were made of it have it mapped.
//
// What a file says is not believed: whatever its bytes are, Open returns a file within all bounds or an error of one of
// the kinds below. What the digests are for is bits that have changed by accident; whoever can write the file can write
// matching ones too, and what it may do with that is for those to bound who use the content.
package snapshot

import "errors"

// Kinds of error, for errors.Is.
var (
	// ErrFormat: it is no snapshot, or contradicts itself.
	ErrFormat = errors.New("snapshot: not a snapshot")
	// ErrVersion: it is of another version, of the format or of what is in it.
	ErrVersion = errors.New("snapshot: of another version")
	// ErrCPU: the guest relies on a processor that this host does not have.
	ErrCPU = errors.New("snapshot: of another processor")
	// ErrChecksum: it has changed since it was written.
	ErrChecksum = errors.New("snapshot: checksum does not match")
	// ErrTruncated: it ends too early.
	ErrTruncated = errors.New("snapshot: truncated")
)

const (
	// Version is that of the format.
	Version = 2
	// PageSize is the unit of everything in a file, in bytes.
	PageSize = 4096
	// BlockSize is how much memory has a checksum of its own, in bytes.
	BlockSize = 256 << 10
	// MaxState bounds the state, in bytes.
	MaxState = 1 << 20
	// MaxBases bounds the files that one leans on.
	MaxBases = 3
	// MaxRuns bounds the runs of the prefetch list, and those of memory.
	MaxRuns = 2048

	maxAbout    = 1 << 20
	maxPrefetch = 4 + MaxRuns*runSize
	maxMemory   = 1 << 40
)
