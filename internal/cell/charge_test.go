package cell

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/memfile"
)

const testRAM = 64 << 20

// charged is a cell whose process is the test, with a control group that is a file.
type charged struct {
	*Cell
	t    *testing.T
	peer *net.UnixConn
	file string
}

func newCharged(t *testing.T, given ...*Branch) *charged {
	t.Helper()
	l, peer, _ := hostile(t, nil)
	c := &charged{t: t, peer: peer, file: filepath.Join(t.TempDir(), "memory.max")}
	c.Cell = &Cell{
		cfg: Config{VCPUs: 1, MemoryMiB: testRAM >> 20}, link: l, given: map[fileID]*layerUse{},
		process: &process{group: &group{memoryFile: c.file}}, done: make(chan struct{}), closed: make(chan struct{}),
	}
	for _, b := range given {
		if err := c.take(b.files[1:], b.uses); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// sealedLayer is a layer of so many pages of memory.
func sealedLayer(t *testing.T, pages int) *os.File {
	t.Helper()
	f, err := memfile.Sealed("layer", func(f *os.File) error {
		_, err := f.Write(make([]byte, pages<<12))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// branch asks for a branch, which the cell answers with these layers, or, without any, refuses.
func (c *charged) branch(layers ...*os.File) (*Branch, error) {
	c.t.Helper()
	answered := make(chan error, 1)
	go func() { answered <- c.answer(layers) }()
	b, err := c.Branch(c.t.Context())
	if err := <-answered; err != nil {
		c.t.Fatal(err)
	}
	return b, err
}

func (c *charged) answer(layers []*os.File) error {
	buf, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	n, nr, _, _, err := c.peer.ReadMsgUnix(buf, rights)
	if err != nil {
		return err
	}
	request, err := decode(buf[:n])
	if err != nil {
		return err
	}
	files, err := filesOf(rights[:nr])
	if err != nil {
		return err
	}
	defer func() { _ = closeAll(files) }()
	reply := message{Kind: kindReply, ID: request.ID}
	if len(layers) == 0 {
		reply.Failure = &failure{Text: "no"}
	} else {
		fds := []int{int(layers[0].Fd())} // as the state
		for _, l := range layers {
			fds = append(fds, int(l.Fd()))
		}
		if err := unix.Sendmsg(int(files[0].Fd()), []byte{0}, unix.UnixRights(fds...), nil, 0); err != nil {
			return err
		}
	}
	b, err := encode(&reply)
	if err != nil {
		return err
	}
	_, err = c.peer.Write(b)
	return err
}

// allows holds the limit of memory to what it was at first and so many bytes more.
func (c *charged) allows(what string, want int64) {
	c.t.Helper()
	b, err := os.ReadFile(c.file)
	if err != nil {
		c.t.Fatal(err)
	}
	if got, err := strconv.ParseInt(string(b), 10, 64); err != nil || got != want {
		c.t.Errorf("%s: %d KiB more are allowed, not %d; %v", what, got>>10, want>>10, err)
	}
}

func (c *charged) must(layers ...*os.File) *Branch {
	c.t.Helper()
	b, err := c.branch(layers...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = b.Close() })
	return b
}

func mustClose(t *testing.T, b *Branch) {
	t.Helper()
	if err := errors.Join(b.Close(), b.Close()); err != nil { // twice is once
		t.Error(err)
	}
}

// A cell that refuses each branch gets room for one layer that nobody knows, and no more; a good branch takes it back.
func TestRefusedBranchesGiveNoMemory(t *testing.T) {
	c := newCharged(t)
	for range 5 {
		if _, err := c.branch(); err == nil {
			t.Fatal("it was branched")
		}
		c.allows("refused", testRAM)
	}
	c.must(sealedLayer(t, 3))
	c.allows("branched", 3<<12)
	for range 3 { // given up; the cell may be at it still
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, _, _, _, _ = c.peer.ReadMsgUnix(make([]byte, maxMessage), nil)
			cancel()
		}()
		if _, err := c.Branch(ctx); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	c.allows("given up", 3<<12+2*testRAM)
}

// What a cell is charged for are the layers that its guest has, and those that branches and copies still have.
func TestFreedLayersAreTakenBack(t *testing.T) {
	c := newCharged(t)
	a, b, merged := sealedLayer(t, 1), sealedLayer(t, 2), sealedLayer(t, 4)
	first := c.must(a)
	c.allows("one layer", 1<<12)
	second := c.must(a, b)
	c.allows("two layers", 3<<12)

	child := newCharged(t, second)
	childs := child.must(a, b, sealedLayer(t, 8), a)
	child.allows("a copy: its own layer", 8<<12)

	third := c.must(merged)
	c.allows("all layers are somebody's", 7<<12)
	mustClose(t, first)
	mustClose(t, second)
	fourth := c.must(merged)
	c.allows("the copy has both", 7<<12)
	child.letGo()
	child.letGo()
	fifth := c.must(merged)
	c.allows("a branch of the copy has both", 7<<12)
	mustClose(t, childs)
	c.must(merged)
	c.allows("nobody has them, and the cell is about to free them", 7<<12)
	c.must(merged)
	c.allows("nobody has them", 4<<12)

	for _, b := range []*Branch{third, fourth, fifth} {
		mustClose(t, b)
	}
	c.must(merged, b)
	c.allows("one comes back", 6<<12)
	if err := child.take([]*os.File{a}, nil); !errors.Is(err, ErrEnded) {
		t.Errorf("a closed cell takes layers: %v", err)
	}
}

// layered is how many bytes of layers the cell is charged for.
func (c *Cell) layered() (bytes int64) {
	c.process.mu.Lock()
	defer c.process.mu.Unlock()
	for _, layer := range c.process.charges {
		if layer.by == c {
			bytes += layer.use.size
		}
	}
	return bytes
}

// twoCharged are two cells of one process.
func twoCharged(t *testing.T) (a, b *charged) {
	a, b = newCharged(t), newCharged(t)
	b.process, b.file = a.process, a.file
	a.process.users = 2
	return a, b
}

// A layer is charged for once, whoever of a process says that it is his, and for as long as somebody has it.
func TestLayerOfSeveralCells(t *testing.T) {
	a, b := twoCharged(t)
	layer := sealedLayer(t, 4)
	first := a.must(layer)
	a.allows("one", 4<<12)
	second := b.must(layer)
	a.allows("the same one of another cell", 4<<12)
	a.process.forget(a.Cell)
	a.allows("the first has ended", 4<<12)
	third := b.must(layer)
	a.allows("the other goes on", 4<<12)
	mustClose(t, first)
	mustClose(t, second)
	b.process.forget(b.Cell)
	a.allows("a branch is left", 4<<12)
	mustClose(t, third)
	b.process.forget(b.Cell)
	a.allows("nothing is left", 0)
}

// One that also says that a layer is its own ends first: the other has it and is charged for it.
func TestLayerOfTwoCells(t *testing.T) {
	a, b := twoCharged(t)
	layer := sealedLayer(t, 4)
	first := a.must(layer)
	mustClose(t, b.must(layer))
	b.process.forget(b.Cell)
	a.allows("the other has ended", 4<<12)
	mustClose(t, first)
}
