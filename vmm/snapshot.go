package vmm

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/codec"
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/machine"
	"github.com/aethervm/aether/internal/virtio/balloon"
	"github.com/aethervm/aether/internal/virtio/blk"
	"github.com/aethervm/aether/internal/virtio/net"
	"github.com/aethervm/aether/internal/virtio/vsock"
)

const (
	// MaxLayers bounds the memory layers of a snapshot: all of them and the state can be sent in one
	// message over a socket.
	MaxLayers = 200
	// MaxStateSize bounds the encoded state of a snapshot, in bytes.
	MaxStateSize = 1 << 20

	// maxPrefetch bounds the runs of RAM that are mapped ahead.
	maxPrefetch = 2048
	// settleDelay is how long after a branch the memory is freed that it has left without a user.
	settleDelay = 20 * time.Millisecond

	stateMagic = 0x4d56_4541 // "AEVM"
	// StateVersion is that of the encoded state.
	StateVersion = 3
)

// ErrSnapshot is wrapped by errors about bytes and files that are no snapshot, or one that does not fit.
var ErrSnapshot = errors.New("vmm: invalid snapshot")

// Snapshot is what a VM was at one moment: its processors and devices, and its memory in layers that
// nobody can write. It is immutable. VMs that [Fork] makes of it hold the layers by themselves; a layer is
// freed when neither a snapshot nor a VM uses it. Its methods may be called concurrently.
type Snapshot struct {
	state    snapshotState
	machine  *machine.State
	prefetch []guestmem.Touched // what a copy uses first

	mu    sync.RWMutex
	image *guestmem.Image // nil once closed
}

// snapshotState is what a snapshot remembers of the VM beside its machine and memory.
type snapshotState struct {
	vcpus   int
	disks   []blk.State
	socket  vsock.State
	balloon balloon.State
	card    *net.State // nil without a card
}

// Branch takes a snapshot of a guest that runs, or is paused. The guest stands still meanwhile, for a time
// that depends on the memory that it has written since it was made or last branched, and goes on by itself.
// What it writes later is not in the snapshot.
//
// Connections to the host are not part of a snapshot: they stay with the guest that was branched. The copies of
// the guest find theirs reset.
func (vm *VM) Branch() (*Snapshot, error) { return vm.BranchFor(1) }

// BranchFor is Branch for a snapshot of which so many copies are to be made: with their number grows what is copied, once and while the
// guest runs, so that its memory is in fewer pieces, each of which is a mapping in every copy.
func (vm *VM) BranchFor(copies int) (*Snapshot, error) {
	s, err := vm.branch(copies)
	if err != nil && vm.life.Err() != nil {
		err = fmt.Errorf("%w: %w", ErrEnded, err)
	}
	if err != nil {
		return nil, fmt.Errorf("branch VM: %w", err)
	}
	return s, nil
}

func (vm *VM) branch(copies int) (_ *Snapshot, err error) {
	vm.branching.Lock()
	defer vm.branching.Unlock()
	s, err := vm.still()
	// When the snapshot is with who wants it: on a host with one processor both would wait.
	defer time.AfterFunc(settleDelay, func() { _ = vm.memory.Settle() }) // the end of the memory does it too
	if err != nil {
		return nil, err
	}
	// What the branch before has left is not counted after this one.
	if err := vm.memory.Settle(); err != nil {
		return nil, err
	}
	if s.image, err = vm.memory.Image(copies); err != nil {
		return nil, err
	}
	if n := len(s.image.Layers()); n > MaxLayers {
		return nil, errors.Join(fmt.Errorf("its memory has %d layers; up to %d are possible", n, MaxLayers), s.image.Close())
	}
	return s, nil
}

// still is the part of branch for which the guest stands still: all but the image.
func (vm *VM) still() (*Snapshot, error) {
	pages, err := vm.pagemap()
	if err != nil {
		return nil, err
	}
	vm.machine.Pause()
	defer vm.machine.Resume()
	s := &Snapshot{prefetch: vm.prefetch}
	if s.machine, err = vm.machine.State(vm.msrs); err != nil {
		return nil, err
	}
	s.state = vm.deviceStates()
	s.state.vcpus = len(s.machine.VCPUs)
	return s, vm.memory.Split(pages)
}

// deviceStates asks the devices what they remember. They are paused.
func (vm *VM) deviceStates() (s snapshotState) {
	for _, part := range vm.parts {
		switch d := part.(type) {
		case *blk.Device:
			s.disks = append(s.disks, d.State())
		case *vsock.Device:
			s.socket = d.State()
		case *balloon.Device:
			s.balloon = d.State()
		case *net.Device:
			card := d.State()
			s.card = &card
		}
	}
	return s
}

// restoreDevices gives new devices the states of others.
func (vm *VM) restoreDevices(s *snapshotState) error {
	disks := s.disks
	for _, part := range vm.parts {
		var err error
		switch d := part.(type) {
		case *blk.Device:
			err = d.Restore(disks[0])
			disks = disks[1:]
		case *vsock.Device:
			err = d.Restore(s.socket)
		case *balloon.Device:
			err = d.Restore(s.balloon)
		case *net.Device:
			err = d.Restore(*s.card)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSnapshot, err)
		}
	}
	return nil
}

// VCPUs is the number of processors.
func (s *Snapshot) VCPUs() int { return s.state.vcpus }

// Network tells whether the guest has a network card.
func (s *Snapshot) Network() bool { return s.state.card != nil }

// hold returns the image, which stays open until release.
func (s *Snapshot) hold() (*guestmem.Image, error) {
	s.mu.RLock()
	if s.image == nil {
		s.mu.RUnlock()
		return nil, fmt.Errorf("%w: it was closed", ErrSnapshot)
	}
	return s.image, nil
}

func (s *Snapshot) release() { s.mu.RUnlock() }

// Close lets go of the layers. It is idempotent, and waits for a Fork in progress.
func (s *Snapshot) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.image == nil {
		return nil
	}
	err := s.image.Close()
	s.image = nil
	return err
}

// Layers returns the files of the memory's layers, in the order that Encode counts on. They are valid until
// Close, and stay the snapshot's: who needs them for longer duplicates them.
func (s *Snapshot) Layers() ([]*os.File, error) {
	image, err := s.hold()
	if err != nil {
		return nil, err
	}
	defer s.release()
	layers := image.Layers()
	files := make([]*os.File, len(layers))
	for i, l := range layers {
		files[i] = l.File()
	}
	return files, nil
}

// Encode returns all of the snapshot but the content of its layers, for [OpenSnapshot], which takes it only in
// the same version of this package.
func (s *Snapshot) Encode() ([]byte, error) {
	image, err := s.hold()
	if err != nil {
		return nil, err
	}
	defer s.release()
	index := map[*guestmem.Layer]uint32{}
	for i, l := range image.Layers() {
		index[l] = uint32(i)
	}
	l := layout{size: image.Size(), prefetch: s.prefetch}
	for _, e := range image.Extents() {
		l.extents = append(l.extents, extentRecord{RAM: e.RAM, Size: e.Size, Offset: e.Offset, Layer: index[e.Layer]})
	}
	b := l.append(nil)
	b = codec.AppendCount(b, len(s.state.disks))
	for _, d := range s.state.disks {
		b = codec.Append(b, d)
	}
	b = codec.Append(codec.Append(b, s.state.socket), s.state.balloon)
	b = codec.Append(b, s.state.card != nil)
	if s.state.card != nil {
		b = codec.Append(b, *s.state.card)
	}
	return s.machine.Append(b), nil
}

// OpenSnapshot makes a snapshot of what Encode has returned and of its layers' files, which it takes over,
// also when it fails. Nothing is trusted: a state that is not whole or contradicts itself, or a layer in memory
// that could still be changed, is refused.
func OpenSnapshot(state []byte, layers []*os.File) (*Snapshot, error) {
	s, err := openSnapshot(state, layers)
	if err != nil {
		return nil, fmt.Errorf("open snapshot: %w", err)
	}
	return s, nil
}

func openSnapshot(state []byte, files []*os.File) (*Snapshot, error) {
	layers, err := openLayers(files)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	s, size, extents, err := decodeSnapshot(state, layers)
	if err != nil {
		for _, l := range layers {
			_ = l.Close()
		}
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	if s.image, err = guestmem.NewImage(size, layers, extents); err != nil { // which has closed the layers
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	return s, nil
}

func openLayers(files []*os.File) (layers []*guestmem.Layer, err error) {
	if len(files) > MaxLayers {
		err = fmt.Errorf("%d layers; up to %d are possible", len(files), MaxLayers)
	}
	for _, f := range files {
		if err != nil {
			_ = f.Close()
			continue
		}
		var l *guestmem.Layer
		if l, err = guestmem.OpenLayer(f); err == nil {
			layers = append(layers, l)
		}
	}
	if err != nil {
		for _, l := range layers {
			_ = l.Close()
		}
		return nil, err
	}
	return layers, nil
}

// decodeSnapshot reads a state. Extents are checked by guestmem.
func decodeSnapshot(b []byte, layers []*guestmem.Layer) (_ *Snapshot, size uint64, extents []guestmem.Extent, err error) {
	if len(b) > MaxStateSize {
		return nil, 0, nil, fmt.Errorf("a state of %d bytes; up to %d are possible", len(b), MaxStateSize)
	}
	d := codec.NewDecoder(b)
	l, err := decodeLayout(d)
	if err != nil {
		return nil, 0, nil, err
	}
	extents = make([]guestmem.Extent, 0, len(l.extents))
	for _, r := range l.extents {
		if uint64(r.Layer) >= uint64(len(layers)) {
			d.Fail("an extent in layer %d of %d", r.Layer, len(layers))
			break
		}
		extents = append(extents, guestmem.Extent{RAM: r.RAM, Size: r.Size, Offset: r.Offset, Layer: layers[r.Layer]})
	}
	s := &Snapshot{prefetch: l.prefetch}
	for range d.Count(MaxDisks) {
		var disk blk.State
		d.Value(&disk)
		s.state.disks = append(s.state.disks, disk)
	}
	d.Value(&s.state.socket)
	d.Value(&s.state.balloon)
	if d.Bool() {
		s.state.card = &net.State{}
		d.Value(s.state.card)
	}
	s.machine = machine.DecodeState(d)
	if s.state.vcpus = len(s.machine.VCPUs); s.state.vcpus < 1 || s.state.vcpus > boot.MaxVCPUs {
		d.Fail("%d vCPUs", s.state.vcpus)
	}
	return s, l.size, extents, d.End()
}
