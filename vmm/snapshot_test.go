package vmm

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/machine"
	"github.com/aethervm/aether/internal/virtio/blk"
	"github.com/aethervm/aether/internal/virtio/net"
	"github.com/aethervm/aether/internal/virtio/vsock"
)

// exampleSnapshot is one of memory of a few pages, without a machine that it was of.
func exampleSnapshot(t testing.TB) *Snapshot {
	t.Helper()
	pages, err := guestmem.OpenPagemap()
	if err != nil {
		t.Fatal(err)
	}
	defer pages.Close()
	mem, err := guestmem.New(1<<20, guestmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	var image *guestmem.Image
	for i := range uint64(3) {
		if image != nil {
			_ = image.Close()
		}
		if err := mem.WriteAt([]byte("content"), i*100<<10); err != nil {
			t.Fatal(err)
		}
		if image, err = imageOf(mem, pages); err != nil {
			t.Fatal(err)
		}
	}
	s := &Snapshot{image: image, machine: &machine.State{VCPUs: []*kvm.VCPUState{{}}, Clock: time.Second}}
	s.state = snapshotState{vcpus: 1, disks: []blk.State{{Sectors: 8}}, socket: vsock.State{NextPort: 5000}, card: &net.State{MAC: [6]byte{2}}}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// imageOf is a branch of memory that nobody writes.
func imageOf(mem *guestmem.Memory, pages *guestmem.Pagemap) (*guestmem.Image, error) {
	if err := mem.Split(pages); err != nil {
		return nil, err
	}
	return mem.Image(1)
}

func encoded(t testing.TB, s *Snapshot) ([]byte, []*os.File) {
	t.Helper()
	state, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := s.Layers()
	if err != nil {
		t.Fatal(err)
	}
	return state, layers
}

func dup(t testing.TB, files []*os.File) (list []*os.File) {
	t.Helper()
	for _, f := range files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, os.NewFile(uintptr(fd), f.Name()))
	}
	return list
}

func filesOpen(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestSnapshotEncoding(t *testing.T) {
	s := exampleSnapshot(t)
	state, layers := encoded(t, s)
	if len(layers) < 2 {
		t.Fatalf("%d layers", len(layers))
	}
	before := filesOpen(t)
	again, err := OpenSnapshot(state, dup(t, layers))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := encoded(t, again); !bytes.Equal(got, state) || again.VCPUs() != 1 || !again.Network() {
		t.Errorf("it has become %x, was %x", got, state)
	}
	mem, err := again.image.Fork(guestmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var word [7]byte
	for i := range uint64(3) {
		if err := mem.ReadAt(word[:], i*100<<10); err != nil || string(word[:]) != "content" {
			t.Errorf("%q, %v", word, err)
		}
	}
	for range 2 {
		if err := errors.Join(again.Close(), mem.Close()); err != nil {
			t.Error(err)
		}
	}
	if after := filesOpen(t); after != before {
		t.Errorf("%d files are open, %d before", after, before)
	}
	if _, err := again.Layers(); !errors.Is(err, ErrSnapshot) {
		t.Errorf("layers of a closed snapshot: %v", err)
	}
	if _, err := again.Encode(); !errors.Is(err, ErrSnapshot) {
		t.Errorf("a closed snapshot encoded: %v", err)
	}
}

func TestOpenSnapshotRefuses(t *testing.T) {
	s := exampleSnapshot(t)
	state, layers := encoded(t, s)
	open, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	unsealedFD, err := unix.MemfdCreate("unsealed", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	unsealed := os.NewFile(uintptr(unsealedFD), "unsealed")
	defer unsealed.Close()
	if err := unsealed.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	change := func(at int, v byte) []byte {
		b := bytes.Clone(state)
		b[at] = v
		return b
	}
	for name, c := range map[string]struct {
		state  []byte
		layers []*os.File
	}{
		"nothing":        {nil, nil},
		"cut":            {state[:len(state)-1], layers},
		"a byte more":    {append(bytes.Clone(state), 0), layers},
		"no layers":      {state, nil},
		"a layer less":   {state, layers[:len(layers)-1]},
		"other magic":    {change(0, 1), layers},
		"other version":  {change(4, 99), layers},
		"no whole pages": {change(8, 1), layers},
		"too long":       {make([]byte, MaxStateSize+1), layers},
		"many layers":    {state, repeated(layers, MaxLayers+1)},
		"not sealed":     {state, append(layers[:len(layers)-1:len(layers)-1], unsealed)},
		"empty":          {state, append(layers[:len(layers)-1:len(layers)-1], open)},
	} {
		before := filesOpen(t)
		got, err := OpenSnapshot(c.state, dup(t, c.layers))
		if got != nil || !errors.Is(err, ErrSnapshot) {
			t.Errorf("%s: %v", name, err)
		}
		if after := filesOpen(t); after != before {
			t.Errorf("%s: %d files are open, %d before", name, after, before)
		}
	}
}

// repeated returns files over and over, n in all.
func repeated(files []*os.File, n int) (list []*os.File) {
	for len(list) < n {
		list = append(list, files[len(list)%len(files)])
	}
	return list
}

// FuzzSnapshot opens snapshots of any state. What is accepted can be mapped, and is encoded as it came.
func FuzzSnapshot(f *testing.F) {
	s := exampleSnapshot(f)
	state, layers := encoded(f, s)
	f.Add(state)
	f.Add(state[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := OpenSnapshot(b, dup(t, layers))
		if err != nil {
			if !errors.Is(err, ErrSnapshot) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		defer got.Close()
		again, err := got.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := decodeSnapshot(again, got.image.Layers()); err != nil {
			t.Fatalf("encoded again: %v", err)
		}
		if got.image.Size() <= 1<<30 {
			mem, err := got.image.Fork(guestmem.Options{})
			if err != nil {
				t.Fatal(err)
			}
			_ = mem.Close()
		}
	})
}
