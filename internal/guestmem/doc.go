// Package guestmem is a guest's RAM: mappings of memory files, laid out in guest-physical address
// space, and bounds-checked access to them for devices and loaders. All guest memory goes through
// this package.
//
// # Who owns what
//
// [New] makes RAM backed by one memory file, mapped shared: a guest that is booted. [Memory.Freeze]
// turns that file into a [Layer], which nobody can write any more, and [Fork] makes RAM out of
// layers, mapped private: each fork sees the layers' content, what it writes is its own, and the
// cost of a fork does not depend on the size of its memory.
//
// A mapping that is unmapped under a reader would end the process. So every access holds the
// memory for its duration: [Memory.Close] makes new accesses fail with [ErrClosed], waits for those
// in progress, and unmaps only then. What outlives a call, a slice or a memslot, must be held by
// its user with [Memory.Acquire]. KVM does not hold memory: close the VM before its memory.
//
// # A hostile writer
//
// The guest's processors write to this memory at any time, between any two reads of it, and nothing
// synchronises them with the host. Three rules keep that harmless:
//
//   - Read once. Copy what is to be judged with [Memory.ReadAt] or one of the typed reads, check
//     the copy, use the copy. A value read a second time may be another one (double fetch).
//   - A slice of guest memory is for moving bulk data to and from files and sockets, whose content
//     does not matter to the host. Never decide by what it holds.
//   - Only the Load and Store methods are single, untorn, ordered accesses; others may see a mix of
//     an old and a new value. Ring indices and flags go through Load and Store.
//
// Go's race detector sees only Go's own accesses, so it stays silent about the guest's; two
// goroutines of the host that share a guest's bytes need a lock as anywhere else.
//
// # Which pages were written
//
// There is no log of the host's own writes. The pages that a fork has written are those that are no
// longer its layers' (anonymous pages of the private mapping), which the kernel can list, whoever
// wrote them: a vCPU, a device through this package, or the kernel itself reading a file into a
// slice.
package guestmem
