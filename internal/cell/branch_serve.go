package cell

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/memfile"
	"github.com/aethervm/aether/vmm"
)

// pagesPath is the map of the process's own pages, which vmm.VM.Branch reads.
const pagesPath = "/proc/self/pagemap"

// statOf is the kernel's own description of a file.
func statOf(info os.FileInfo) (*syscall.Stat_t, error) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("%s: no file of the kernel's", info.Name())
	}
	return stat, nil
}

// branch takes a snapshot of the guest and sends it to the owner.
func (s *server) branch(to *stream, copies int) error {
	snapshot, err := s.vm.BranchFor(copies)
	if err != nil {
		return err
	}
	// The guest goes on and holds the layers by itself.
	err = sendBranch(to, snapshot)
	s.idle.busy()
	return errors.Join(err, snapshot.Close())
}

// touched lists the memory that the guest has used, in the words of the protocol.
func (s *server) touched() ([]uint64, error) {
	runs, err := s.vm.Touched()
	pages := make([]uint64, 0, 2*len(runs))
	for _, r := range runs {
		n := r.Size / guestmem.PageSize * 2
		if r.Write {
			n++
		}
		pages = append(pages, r.RAM/guestmem.PageSize, n)
	}
	return pages, err
}

func sendBranch(to *stream, snapshot *vmm.Snapshot) error {
	state, err := snapshot.Encode()
	if err != nil {
		return err
	}
	file, err := memfile.Sealed("state", func(f *os.File) error {
		_, err := f.Write(state)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	layers, err := snapshot.Layers()
	if err != nil {
		return err
	}
	fds := []int{int(file.Fd())}
	for _, l := range layers {
		fds = append(fds, int(l.Fd()))
	}
	raw, err := to.file.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		sendErr = unix.Sendmsg(int(fd), []byte{0}, unix.UnixRights(fds...), nil, 0)
		return !errors.Is(sendErr, unix.EAGAIN)
	})
	if err := errors.Join(err, sendErr); err != nil {
		return fmt.Errorf("send the branch: %w", err)
	}
	return nil
}

// buildCopy makes the virtual machine of a branch.
func (s *server) buildCopy(boot *bootMessage, files []*os.File) (*vmm.VM, error) {
	stateFile, layers := files[0], files[1:1+boot.Layers]
	s.disks = files[1+boot.Layers:]
	cfg := vmm.ForkConfig{Shell: s.shell, Console: s.console, Pages: s.pages, Disks: s.disks}
	state, err := readState(stateFile)
	if err := errors.Join(err, stateFile.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("read the branch's state: %w", err), closeAll(layers))
	}
	snapshot, err := vmm.OpenSnapshot(state, layers)
	if err != nil {
		return nil, err
	}
	if boot.Network != nil {
		cfg.Network = s.network(boot.Network)
	}
	vm, err := vmm.Fork(snapshot, cfg)
	if err = errors.Join(err, snapshot.Close()); err != nil && vm != nil {
		err = errors.Join(err, vm.Close())
	}
	return vm, err
}

// readState reads the state of a branch, at most one byte more than one may have. It takes no more memory than that.
func readState(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	state := make([]byte, min(info.Size(), vmm.MaxStateSize+1))
	_, err = io.ReadFull(io.NewSectionReader(f, 0, int64(len(state))), state)
	return state, err
}
