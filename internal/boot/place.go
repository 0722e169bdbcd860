package boot

import "github.com/aethervm/aether/internal/guestmem"

const (
	// smallRAM is how much a guest must have, in bytes, for its kernel to be where it was linked for.
	smallRAM = 128 << 20
	// lowestKernel is where the kernel of a smaller one begins: the first page of 2 MiB that has nothing else in it.
	lowestKernel = 2 << 20
)

// Fit moves the kernel for a guest with so many bytes of RAM. Linux is linked for 16 MiB, the memory below which it
// cannot use well on a PC with old devices; a guest of 64 MiB would lose a quarter of its RAM by that, and Debian's
// kernels have no room in the rest. An x86-64 Linux runs at any physical address that is its own but for a multiple of
// 2 MiB: it corrects its page tables by what it sees itself at ("arch/x86/kernel/head64.c", __startup_64). Its virtual
// addresses stay. It is to be called before Span and Load.
func (k *Kernel) Fit(ram uint64) {
	selfUnpacking := k.header != nil && !k.unpacked
	if ram >= smallRAM || selfUnpacking || k.span.GPA < lowestKernel || k.span.GPA%lowestKernel != 0 {
		return
	}
	down := k.span.GPA - lowestKernel
	for i := range k.segments {
		k.segments[i].mem.GPA -= down
	}
	k.entry -= down
	k.span = guestmem.Range{GPA: lowestKernel, Size: k.span.Size}
}
