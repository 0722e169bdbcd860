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
	// Bases are the files with the rest of the memory, in the order of the state. What holds for Memory holds for them.
	Bases []*os.File
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
	memory, err := duplicates(append([]*os.File{s.Memory}, s.Bases...))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open saved branch: %w", err), state.Close())
	}
	return &Branch{vcpus: s.VCPUs, memoryMiB: s.MemoryMiB, disks: s.Disks, network: s.Network, files: append([]*os.File{state}, memory...)}, nil
}

// duplicates returns descriptors of the same files, or of none.
func duplicates(files []*os.File) ([]*os.File, error) {
	var list []*os.File
	for _, f := range files {
		d, err := duplicate(f)
		if err != nil {
			return nil, errors.Join(err, closeAll(list))
		}
		list = append(list, d)
	}
	return list, nil
}

// duplicate returns another descriptor of the same file.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// Save writes the branch's memory to w and returns the state that goes with it. Where the memory is, it takes from the state
// that the cell has sent, held to its bounds; it reads the layers and maps none of them. What is in bases, files that the
// branched cell was started from, is not written.
func (b *Branch) Save(ctx context.Context, w *snapshot.Writer, bases ...*os.File) ([]byte, error) {
	files, err := b.hold()
	if err != nil {
		return nil, err
	}
	defer b.release()
	state, numbers, err := savedLayers(files, bases)
	if err != nil {
		return nil, fmt.Errorf("save branch: %w", err)
	}
	return vmm.SaveMemory(ctx, w, state, files[1:], uint64(b.memoryMiB)<<20, numbers...)
}

// Shared is how many bytes of the branch's memory are in each of these files.
func (b *Branch) Shared(bases ...*os.File) ([]uint64, error) {
	files, err := b.hold()
	if err != nil {
		return nil, err
	}
	defer b.release()
	state, numbers, err := savedLayers(files, bases)
	if err != nil {
		return nil, err
	}
	sizes, err := vmm.SharedMemory(state, len(files)-1, uint64(b.memoryMiB)<<20)
	if err != nil {
		return nil, err
	}
	shared := make([]uint64, len(bases))
	for i, n := range numbers {
		if n >= 0 {
			shared[i] = sizes[n]
		}
	}
	return shared, nil
}

// savedLayers reads the state among a branch's files, and finds the layer that each base is; -1 is none.
func savedLayers(files, bases []*os.File) (state []byte, numbers []int, err error) {
	if state, err = io.ReadAll(io.NewSectionReader(files[0], 0, vmm.MaxStateSize)); err != nil {
		return nil, nil, err
	}
	for _, base := range bases {
		want, _, err := layerSize(base)
		if err != nil {
			return nil, nil, err
		}
		number := -1
		for i, f := range files[1:] {
			if id, _, err := layerSize(f); err != nil {
				return nil, nil, err
			} else if id == want {
				number = i
			}
		}
		numbers = append(numbers, number)
	}
	return state, numbers, nil
}

// Touched lists the memory that the guest has used since its cell was started or last branched: see vmm.VM.Touched.
func (c *Cell) Touched(ctx context.Context) ([]snapshot.Run, error) {
	reply, err := c.call(ctx, message{Kind: kindTouched})
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

// Open decodes the branch in this process, for who wants to make its machines here, without a cell around them: a
// benchmark.
func (b *Branch) Open() (*vmm.Snapshot, error) {
	files, err := b.hold()
	if err != nil {
		return nil, err
	}
	defer b.release()
	state, err := io.ReadAll(io.NewSectionReader(files[0], 0, vmm.MaxStateSize+1))
	if err != nil {
		return nil, err
	}
	layers, err := duplicates(files[1:])
	if err != nil {
		return nil, err
	}
	return vmm.OpenSnapshot(state, layers)
}
