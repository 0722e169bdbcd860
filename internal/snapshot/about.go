package snapshot

import (
	"crypto/sha256"
	"fmt"

	"github.com/aethervm/aether/internal/codec"
)

// Bounds of an About.
const (
	maxDisks  = 64
	maxText   = 256
	maxLeaves = 512
	maxMSRs   = 1024
)

// About is what a machine is, and what it needs where it is to go on.
type About struct {
	// Program is the version of the program that has written the file, for people.
	Program string
	// StateVersion and AgentVersion are those of the state and of the protocol that the agent in the guest speaks.
	StateVersion, AgentVersion uint32
	// VCPUs and MemoryMiB are the guest's processors and RAM.
	VCPUs, MemoryMiB uint32
	// Network says that the guest has a network card.
	Network bool
	// Disks are the guest's disks, which are not in the file.
	Disks []Disk
	// CPU is the processor that the guest has met.
	CPU CPU
	// Bases are the digests of the files that have the rest of the memory, in the order in which the state counts them.
	Bases [][sha256.Size]byte
}

// Disk tells a disk from others.
type Disk struct {
	Size uint64            // bytes
	Sum  [sha256.Size]byte // of its first bytes; see the caller
}

// Run is a run of RAM in whole pages, in bytes. A copy touches it first; Write says that it writes to all of it.
type Run struct {
	RAM, Size uint64
	Write     bool
}

const runSize = 8 + 8 + 1

// holds tells whether the machine's RAM has room for so many bytes of memory.
func (a *About) holds(memory uint64) error {
	if memory > uint64(a.MemoryMiB)<<20 {
		return fmt.Errorf("%w: %d bytes of memory for %d MiB of RAM", ErrFormat, memory, a.MemoryMiB)
	}
	return nil
}

func (a *About) encode() []byte {
	b := codec.AppendBytes(nil, []byte(a.Program[:min(len(a.Program), maxText)]))
	b = codec.Append(b, [4]uint32{a.StateVersion, a.AgentVersion, a.VCPUs, a.MemoryMiB})
	b = codec.Append(b, a.Network)
	b = codec.AppendCount(b, len(a.Disks))
	for _, d := range a.Disks {
		b = codec.Append(b, d)
	}
	b = codec.AppendCount(b, len(a.CPU.Leaves))
	for _, l := range a.CPU.Leaves {
		b = codec.Append(b, l)
	}
	b = codec.AppendCount(b, len(a.CPU.MSRs))
	b = codec.Append(b, a.CPU.MSRs)
	b = codec.Append(b, a.CPU.TSCKHz)
	b = codec.AppendCount(b, len(a.Bases))
	for _, sum := range a.Bases {
		b = codec.Append(b, sum)
	}
	return b
}

func decodeAbout(b []byte) (a About, err error) {
	d := codec.NewDecoder(b)
	a.Program = string(d.Bytes(maxText))
	var versions [4]uint32
	d.Value(&versions)
	a.StateVersion, a.AgentVersion, a.VCPUs, a.MemoryMiB = versions[0], versions[1], versions[2], versions[3]
	a.Network = d.Bool()
	for range d.Count(maxDisks) {
		var disk Disk
		d.Value(&disk)
		a.Disks = append(a.Disks, disk)
	}
	for range d.Count(maxLeaves) {
		var l Leaf
		d.Value(&l)
		a.CPU.Leaves = append(a.CPU.Leaves, l)
	}
	if n := d.Count(maxMSRs); n > 0 {
		a.CPU.MSRs = make([]uint32, n)
		d.Value(a.CPU.MSRs)
	}
	d.Value(&a.CPU.TSCKHz)
	for range d.Count(MaxBases) {
		var sum [sha256.Size]byte
		d.Value(&sum)
		a.Bases = append(a.Bases, sum)
	}
	return a, formatError("about", d.End())
}

func encodeRuns(runs []Run) []byte {
	b := codec.AppendCount(nil, len(runs))
	for _, r := range runs {
		b = codec.Append(b, r)
	}
	return b
}

// decodeRuns reads a prefetch list: ascending, without overlaps, in whole pages of so much memory in bytes.
func decodeRuns(b []byte, memory uint64) (runs []Run, err error) {
	d := codec.NewDecoder(b)
	var at uint64
	for range d.Count(MaxRuns) {
		var r Run
		d.Value(&r.RAM)
		d.Value(&r.Size)
		r.Write = d.Bool()
		if d.Err() != nil {
			break
		}
		if (r.RAM|r.Size)%PageSize != 0 || r.Size == 0 || r.RAM < at || r.RAM > memory || r.Size > memory-r.RAM {
			d.Fail("a run of %d bytes at %#x", r.Size, r.RAM)
			break
		}
		at = r.RAM + r.Size
		runs = append(runs, r)
	}
	return runs, formatError("prefetch", d.End())
}

func formatError(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrFormat, what, err)
	}
	return nil
}
