package virtiotest

import (
	"encoding/binary"
	"time"
)

// Buffer is what one descriptor points to.
type Buffer struct {
	Addr     uint64
	Len      uint32
	Writable bool
}

// Ring is the driver's side of a split virtqueue. One goroutine uses it at a time.
type Ring struct {
	Index             int
	Size              int
	Desc, Avail, Used uint64

	g                   *Guest
	eventIdx            bool
	free                []uint16
	chains              map[uint16][]uint16 // descriptors by head
	avail, used, kicked uint16
}

func newRing(g *Guest, index, size int, eventIdx bool) *Ring {
	r := &Ring{
		Index: index, Size: size, g: g, eventIdx: eventIdx,
		Desc: g.Alloc(16 * size), Avail: g.Alloc(6 + 2*size), Used: g.Alloc(6 + 8*size),
		chains: map[uint16][]uint16{},
	}
	// The memory may have been another guest's.
	g.Put(r.Avail, make([]byte, 6+2*size))
	g.Put(r.Used, make([]byte, 6+8*size))
	for i := size - 1; i >= 0; i-- {
		r.free = append(r.free, uint16(i))
	}
	return r
}

// Moved is the same ring of another guest: a copy of the memory.
func (r *Ring) Moved(g *Guest) *Ring {
	c := *r
	c.g = g
	c.free = append([]uint16(nil), r.free...)
	c.chains = map[uint16][]uint16{}
	for k, v := range r.chains {
		c.chains[k] = v
	}
	return &c
}

// Free is how many descriptors are not in use.
func (r *Ring) Free() int { return len(r.free) }

// SetDesc writes a descriptor, of any content.
func (r *Ring) SetDesc(i uint16, addr uint64, n uint32, flags, next uint16) {
	r.g.Put(r.Desc+16*uint64(i), Descriptor(addr, n, flags, next))
}

// Descriptor encodes a descriptor.
func Descriptor(addr uint64, n uint32, flags, next uint16) []byte {
	b := binary.LittleEndian.AppendUint64(nil, addr)
	b = binary.LittleEndian.AppendUint32(b, n)
	b = binary.LittleEndian.AppendUint16(b, flags)
	return binary.LittleEndian.AppendUint16(b, next)
}

// Add makes a chain available, without a notification, and returns its head.
func (r *Ring) Add(buffers ...Buffer) uint16 {
	if len(buffers) > len(r.free) {
		r.g.TB.Fatalf("queue %d is full", r.Index)
	}
	ids := append([]uint16(nil), r.free[len(r.free)-len(buffers):]...)
	r.free = r.free[:len(r.free)-len(buffers)]
	for i, b := range buffers {
		var flags, next uint16
		if b.Writable {
			flags |= 2
		}
		if i+1 < len(buffers) {
			flags |= 1
			next = ids[i+1]
		}
		r.SetDesc(ids[i], b.Addr, b.Len, flags, next)
	}
	r.chains[ids[0]] = ids
	r.Offer(ids[0])
	return ids[0]
}

// Offer puts a head, of any value, on the available ring.
func (r *Ring) Offer(head uint16) {
	must(r, r.g.Mem.StoreUint16(r.Avail+4+2*uint64(int(r.avail)%r.Size), head))
	r.avail++
	r.SetAvail(r.avail)
}

// SetAvail writes the available index, of any value.
func (r *Ring) SetAvail(idx uint16) {
	must(r, r.g.Mem.StoreUint16(r.Avail+2, idx))
}

// TB.Helper walks the stack: in what benchmarks call, it is called only to fail.
func must(r *Ring, err error) {
	if err != nil {
		r.g.TB.Helper()
		r.g.TB.Fatal(err)
	}
}

// Kick notifies the device if it wants to be, and tells whether it did.
func (r *Ring) Kick() bool {
	if !r.NeedsKick() {
		return false
	}
	r.g.Notify(r.Index)
	return true
}

// NeedsKick tells whether the device wants to hear of what was added since the last call.
func (r *Ring) NeedsKick() bool {
	from := r.kicked
	r.kicked = r.avail
	if r.eventIdx {
		event, err := r.g.Mem.LoadUint16(r.Used + 4 + 8*uint64(r.Size))
		must(r, err)
		return r.avail-event-1 < r.avail-from
	}
	flags, err := r.g.Mem.LoadUint16(r.Used)
	must(r, err)
	return flags&1 == 0
}

// Get takes a chain that the device has used, if there is one.
func (r *Ring) Get() (head uint16, written uint32, ok bool) {
	idx, err := r.g.Mem.LoadUint16(r.Used + 2)
	must(r, err)
	if idx == r.used {
		return 0, 0, false
	}
	b := r.g.Bytes(r.Used+4+8*uint64(int(r.used)%r.Size), 8)
	r.used++
	head, written = uint16(binary.LittleEndian.Uint32(b)), binary.LittleEndian.Uint32(b[4:])
	ids, known := r.chains[head]
	if !known {
		r.g.TB.Fatalf("queue %d: the device used %d, which it was not given", r.Index, head)
	}
	delete(r.chains, head)
	r.free = append(r.free, ids...)
	return head, written, true
}

// Wait takes a chain that the device has used, sleeping until an interrupt if there is none.
func (r *Ring) Wait() (head uint16, written uint32) {
	deadline := time.After(20 * time.Second)
	for {
		if head, written, ok := r.Get(); ok {
			return head, written
		}
		r.WantInterrupt()
		if head, written, ok := r.Get(); ok {
			return head, written
		}
		select {
		case <-r.g.IRQ:
			r.g.Acknowledge()
		case err := <-r.g.Stopped:
			r.g.TB.Fatal(err)
		case <-deadline:
			r.g.TB.Fatalf("queue %d: no interrupt", r.Index)
		}
	}
}

// WantInterrupt asks for an interrupt at the next used chain.
func (r *Ring) WantInterrupt() {
	if r.eventIdx {
		must(r, r.g.Mem.StoreUint16(r.Avail+4+2*uint64(r.Size), r.used))
		return
	}
	must(r, r.g.Mem.StoreUint16(r.Avail, 0))
}

// NoInterrupt asks for no interrupts; with event indices, for none before the index has wrapped.
func (r *Ring) NoInterrupt() {
	if r.eventIdx {
		must(r, r.g.Mem.StoreUint16(r.Avail+4+2*uint64(r.Size), r.used-1))
		return
	}
	must(r, r.g.Mem.StoreUint16(r.Avail, 1))
}

// Call does one request: the device reads out and writes in bytes, which are returned.
func (r *Ring) Call(out []byte, in int) []byte {
	next := r.g.next // the memory is free again when the request is done
	defer func() { r.g.next = next }()
	var buffers []Buffer
	if len(out) > 0 {
		addr := r.g.Alloc(len(out))
		r.g.Put(addr, out)
		buffers = append(buffers, Buffer{Addr: addr, Len: uint32(len(out))})
	}
	var addr uint64
	if in > 0 {
		addr = r.g.Alloc(in)
		buffers = append(buffers, Buffer{Addr: addr, Len: uint32(in), Writable: true})
	}
	r.Add(buffers...)
	r.Kick()
	_, written := r.Wait()
	if int(written) > in {
		r.g.TB.Fatalf("the device claims to have written %d of %d bytes", written, in)
	}
	if in == 0 {
		return nil
	}
	return r.g.Bytes(addr, int(written))
}
