package cell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/memfile"
	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/vmm"
)

// Saved is a branch that was kept on disk.
type Saved struct {
	// VCPUs, MemoryMiB, Disks (their number) and Network are as in the Config of the cell that was branched.
	VCPUs, MemoryMiB, Disks int
	Network                 bool
	// State is what vmm.SavedState has returned, Memory the file that it is of. Nobody writes to that or cuts it while a
	// cell of the branch lives: the guest would see it, or end. It stays the caller's, who may close it at once.
	State  []byte
	Memory *os.File
}

// OpenSaved makes a branch of one that was kept. The cells that are started from it do not believe what it says.
func OpenSaved(s Saved) (*Branch, error) {
	state, err := memfile.Sealed("state", func(f *os.File) error {
		_, err := f.Write(s.State)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open saved branch: %w", err)
	}
	fd, err := unix.FcntlInt(s.Memory.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open saved branch: duplicate %s: %w", s.Memory.Name(), err), state.Close())
	}
	return &Branch{
		vcpus: s.VCPUs, memoryMiB: s.MemoryMiB, disks: s.Disks, network: s.Network,
		files: []*os.File{state, os.NewFile(uintptr(fd), s.Memory.Name())},
	}, nil
}

// Save writes the branch's memory to w and returns the state that goes with it. Where the memory is, it takes from the state
// that the cell has sent, held to its bounds; it reads the layers and maps none of them.
func (b *Branch) Save(ctx context.Context, w *snapshot.Writer) ([]byte, error) {
	files, err := b.hold()
	if err != nil {
		return nil, err
	}
	defer b.release()
	state, err := io.ReadAll(io.NewSectionReader(files[0], 0, vmm.MaxStateSize))
	if err != nil {
		return nil, fmt.Errorf("save branch: %w", err)
	}
	return vmm.SaveMemory(ctx, w, state, files[1:], uint64(b.memoryMiB)<<20)
}

// Touched lists the memory that the guest has used since its cell was started or last branched: see vmm.VM.Touched.
func (c *Cell) Touched(ctx context.Context) ([]snapshot.Run, error) {
	reply, err := c.call(ctx, message{Kind: kindTouched}, nil)
	if err != nil {
		return nil, fmt.Errorf("list the memory that the guest uses: %w", err)
	}
	runs, err := touchedRuns(reply.Pages, uint64(c.cfg.MemoryMiB)<<20)
	if err != nil {
		return nil, fmt.Errorf("list the memory that the guest uses: the cell breaks the protocol: %w", err)
	}
	return runs, nil
}

// touchedRuns takes runs out of a reply: ascending, without overlaps, within RAM of so many bytes.
func touchedRuns(pages []uint64, memory uint64) ([]snapshot.Run, error) {
	if len(pages)%2 != 0 {
		return nil, fmt.Errorf("%d numbers", len(pages))
	}
	limit, at := memory/guestmem.PageSize, uint64(0)
	var runs []snapshot.Run
	for i := 0; i < len(pages); i += 2 {
		first, n := pages[i], pages[i+1]/2
		if n == 0 || first < at || first > limit || n > limit-first {
			return nil, fmt.Errorf("%d pages from page %d on", n, first)
		}
		at = first + n
		runs = append(runs, snapshot.Run{RAM: first * guestmem.PageSize, Size: n * guestmem.PageSize, Write: pages[i+1]%2 == 1})
	}
	return runs, nil
}
