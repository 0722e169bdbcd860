package cell

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/vmm"
)

// transferPatience is how long a cell may take to send what it has said that it sends.
const transferPatience = 5 * time.Second

// Branch is what the virtual machine of a cell was at one moment: files in memory that nobody can change. Cells
// are started from it ([Config].From); a branch is for cells of one tenant only, since what the guest had in its
// memory is in it. Its methods may be called concurrently.
type Branch struct {
	vcpus, memoryMiB, disks int
	network                 bool

	mu    sync.RWMutex
	files []*os.File  // the state, then the layers of the memory; nil once closed
	uses  []*layerUse // of each layer; nil once closed, and for one that was kept on disk
}

// VCPUs is the number of the guest's processors.
func (b *Branch) VCPUs() int { return b.vcpus }

// MemoryMiB is the guest's RAM in MiB.
func (b *Branch) MemoryMiB() int { return b.memoryMiB }

// Layers is the number of layers that the memory is in, and the bytes of memory that they take.
func (b *Branch) Layers() (n int, bytes int64, err error) {
	files, err := b.hold()
	if err != nil {
		return 0, 0, err
	}
	defer b.release()
	for _, f := range files[1:] {
		_, size, err := layerSize(f)
		if err != nil {
			return 0, 0, err
		}
		bytes += size
	}
	return len(files) - 1, bytes, nil
}

// hold returns the files, which stay open until release.
func (b *Branch) hold() ([]*os.File, error) {
	b.mu.RLock()
	if b.files == nil {
		b.mu.RUnlock()
		return nil, fmt.Errorf("%w: the branch was closed", ErrConfig)
	}
	return b.files, nil
}

func (b *Branch) release() { b.mu.RUnlock() }

// Close lets go of the files. Cells that were started from them live on; the memory is freed when the last one
// that maps it has ended. It is idempotent.
func (b *Branch) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := closeAll(b.files)
	releaseAll(b.uses)
	b.files, b.uses = nil, nil
	return err
}

func closeAll(files []*os.File) error {
	errs := make([]error, 0, len(files))
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Branch takes what the virtual machine is now, and has it go on. The guest stands still for a time that depends
// on the memory that it has written since its cell was started or last branched. Its programs should have been
// stopped before, and told in each copy who they are before they go on: see vmm.Fork.
//
// When ctx ends first, the guest may be branched all the same, which it does not notice; nothing is kept of it.
func (c *Cell) Branch(ctx context.Context) (*Branch, error) { return c.BranchFor(ctx, 1) }

// BranchFor is Branch where so many cells are to be started from it: see vmm.VM.BranchFor.
func (c *Cell) BranchFor(ctx context.Context, copies int) (*Branch, error) {
	b, err := c.branch(ctx, copies)
	if err != nil {
		return nil, fmt.Errorf("branch the guest: %w", err)
	}
	return b, nil
}

func (c *Cell) branch(ctx context.Context, copies int) (_ *Branch, err error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	c.branching.Lock()
	defer c.branching.Unlock()
	select {
	case <-c.closed:
		return nil, fmt.Errorf("%w: closed", ErrEnded)
	case <-c.done:
		return nil, c.end
	default:
	}
	ours, theirs, err := packetPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = ours.Close() }()
	// What the guest has written becomes a layer, which stays charged to the cell, and which the guest will write
	// anew.
	ram := int64(c.cfg.MemoryMiB) << 20
	if err := c.allow(c.lost + c.settling + ram); err != nil {
		_ = theirs.Close()
		return nil, fmt.Errorf("make room for it: %w", err)
	}
	defer func() {
		if err == nil {
			return
		}
		// The cell may have made a layer all the same, which nobody knows but the guest that goes on from it, until the
		// next branch has it. Room is kept for one, however often that happens: a cell could refuse each branch to
		// have no limit in the end.
		c.lost = ram
		if ctx.Err() == nil { // else it may still be at it
			_ = c.allow(c.lost + c.settling)
		}
	}()
	_, err = c.call(ctx, message{Kind: kindBranch, Copies: copies}, theirs)
	if err := errors.Join(err, theirs.Close()); err != nil {
		return nil, err
	}
	files, err := receiveBranch(ours, uint64(c.cfg.MemoryMiB)<<20, c.given)
	if scarce(err) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("the cell breaks the protocol: %w", err)
	}
	b := &Branch{
		vcpus: c.cfg.VCPUs, memoryMiB: c.cfg.MemoryMiB, disks: len(c.cfg.Disks), network: c.cfg.Network != nil, files: files,
	}
	if b.uses, err = c.charge(files[1:]); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	_ = c.allow(c.settling) // when it fails, the cell may take more than it should, until the next time
	return b, nil
}

// fileID tells a file from others.
type fileID struct{ device, inode uint64 }

// layerSize is what tells a layer from others, and how much memory, or space on disk, it takes.
func layerSize(f *os.File) (id fileID, size int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return id, 0, err
	}
	stat, err := statOf(info)
	if err != nil {
		return id, 0, err
	}
	return fileID{stat.Dev, stat.Ino}, stat.Blocks * 512, nil
}

// receiveBranch takes what a cell sends in reply to a request for a branch: one packet with the state and the
// layers of memory of so many bytes, all of them files in memory that cannot be changed any more, or files that were
// given to the cell as layers. Whatever it sends instead, nothing of it stays open. This socket is the only one from
// which an owner takes descriptors, and it does so once. An owner that has no descriptors left for them gets an error that
// wraps EMFILE.
func receiveBranch(conn *net.UnixConn, memory uint64, given map[fileID]*layerUse) (_ []*os.File, err error) {
	_ = conn.SetReadDeadline(time.Now().Add(transferPatience))
	rights := make([]byte, unix.CmsgSpace(4*(vmm.MaxLayers+1)))
	_, n, flags, _, err := conn.ReadMsgUnix(make([]byte, 1), rights)
	files, parseErr := filesOf(rights[:n]) // also when something is wrong: they are to be closed
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(files))
		}
	}()
	switch {
	case err != nil:
		return nil, fmt.Errorf("receive the branch: %w", err)
	case parseErr != nil:
		return nil, parseErr
	case flags&unix.MSG_CTRUNC != 0 && len(files) <= vmm.MaxLayers: // there was room for them: it is this process that has none
		return nil, fmt.Errorf("receive the branch: %d of its files: %w", len(files), unix.EMFILE)
	case flags&unix.MSG_CTRUNC != 0 || len(files) > vmm.MaxLayers+1: // there is room for one more, to be aligned
		return nil, errors.New("it sends more files than are possible")
	case len(files) < 2:
		return nil, fmt.Errorf("a branch of %d files", len(files))
	}
	for i, f := range files {
		limit, unit := memory, uint64(guestmem.PageSize)
		if i == 0 {
			limit, unit = vmm.MaxStateSize, 1
		} else if id, _, err := layerSize(f); err == nil {
			if _, ok := given[id]; ok {
				continue
			}
		}
		if err := sealed(f, limit, unit); err != nil {
			return nil, fmt.Errorf("file %d of its branch: %w", i, err)
		}
	}
	return files, nil
}

// filesOf makes files of all descriptors that came with a message.
func filesOf(rights []byte) ([]*os.File, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	list, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	var errs []error
	for i := range list {
		fds, err := unix.ParseUnixRights(&list[i])
		errs = append(errs, err)
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "branch"))
		}
	}
	return files, errors.Join(errs...)
}

// sealed holds a file to what a branch is made of: memory that can be neither written nor resized, not even by who
// has it open for writing or mapped.
func sealed(f *os.File, limit, unit uint64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if size := info.Size(); !info.Mode().IsRegular() || size <= 0 || uint64(size) > limit || uint64(size)%unit != 0 {
		return fmt.Errorf("%v of %d bytes", info.Mode().Type(), size)
	}
	if !guestmem.IsSealed(f) {
		return guestmem.ErrNotSealed
	}
	return nil
}
