package machine

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	virtionet "github.com/aethervm/aether/internal/virtio/net"
	"github.com/aethervm/aether/internal/virtio/net/usernet"
)

// Places in a frame of hostileFrame, after the card's header.
const (
	netHeader = 12
	atIP      = netHeader + 14
	atPorts   = atIP + 20
	atUrgent  = atPorts + 18
)

// checksum is the Internet's.
func checksum(p []byte) uint16 {
	var sum uint32
	for ; len(p) > 1; p = p[2:] {
		sum += uint32(binary.BigEndian.Uint16(p))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// hostileFrame is a frame with an IPv4 packet from 10.0.2.15, with the card's header before it.
func hostileFrame(protocol byte, fragment uint16, to netip.Addr, payload []byte) []byte {
	be := binary.BigEndian
	f := append(make([]byte, netHeader), 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0)
	ip := append([]byte{0x45, 0}, be.AppendUint16(nil, uint16(20+len(payload)))...)
	ip = append(ip, 0, 0)
	ip = be.AppendUint16(ip, fragment)
	ip = append(ip, 64, protocol, 0, 0, 10, 0, 2, 15)
	ip = append(ip, to.AsSlice()...)
	be.PutUint16(ip[10:], checksum(ip))
	if protocol == 6 {
		pseudo := slices.Concat(ip[12:20], []byte{0, 6}, be.AppendUint16(nil, uint16(len(payload))), payload)
		be.PutUint16(payload[16:], checksum(pseudo))
	}
	return slices.Concat(f, ip, payload)
}

// vary has the guest put a random number at one place of a frame and its complement at another, if
// there is another, which leaves the checksum right.
func vary(at, complement uint32) []byte {
	code := slices.Concat(random, setAddr(at), []byte{0x66, 0x89, 0x0f}) // mov [rdi], cx
	if complement != 0 {
		code = slices.Concat(code, setAddr(complement), []byte{0x89, 0xc8, 0xf7, 0xd0, 0x66, 0x89, 0x07}) // mov eax, ecx; not eax; mov [rdi], ax
	}
	return code
}

// A guest that opens as many flows as it can, those that are allowed, which the outside never answers,
// and those that are not; that sends fragments of packets which it never completes; and that claims to
// be all its neighbours.
func TestHostileFlows(t *testing.T) {
	syn := func() []byte {
		return []byte{0, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0, 0, 0xff, 0xff}
	}
	datagram := []byte{0, 0, 0, 99, 0, 12, 0, 0, 'd', 'a', 't', 'a'}
	allowed, forbidden := netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("9.9.9.9")
	arp := slices.Concat(make([]byte, netHeader), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6},
		[]byte{0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2})
	kinds := []struct {
		frame    []byte
		at, also uint32
	}{
		{hostileFrame(6, 0, allowed, syn()), atPorts, atUrgent},
		{hostileFrame(6, 0, forbidden, syn()), atPorts, atUrgent},
		{hostileFrame(17, 0, allowed, datagram), atPorts, 0},
		{hostileFrame(17, 0, forbidden, datagram), atPorts, 0},
		{hostileFrame(17, 0x2001, allowed, make([]byte, 1400)), atIP + 4, atIP + 14},
		{arp, netHeader + 14 + 16, 0},
	}
	r := hostileRing(devNet, 1)
	ram, round := memory{}, []byte(nil)
	ram.fill(r, 0, func(i int) descriptor {
		at, kind := uint32(hostileBuffers+2048*i), kinds[i%len(kinds)]
		ram[uint64(at)] = kind.frame
		also := uint32(0)
		if kind.also != 0 {
			also = at + kind.also
		}
		round = slices.Concat(round, vary(at+kind.at, also))
		return descriptor{addr: uint64(at), len: uint32(len(kind.frame))}
	})
	var card *virtionet.Device
	var denied, dialed atomic.Int64
	network, err := usernet.New(usernet.Config{
		Gateway: netip.MustParsePrefix("10.0.2.2/16"), MAC: [6]byte{2, 5: 2}, MTU: virtionet.MTU,
		Rules:   []usernet.Rule{{Prefix: netip.MustParsePrefix("8.8.8.0/24")}},
		Deliver: func(frame []byte) { card.Deliver(frame) },
		Denied:  func(usernet.Flow) { denied.Add(1) },
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			dialed.Add(1)
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	closeNetwork := func(t *testing.T) {
		within(t, "closing the network", func() {
			if err := network.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { closeNetwork(t) })
	devices := everyDevice(t)
	card = virtionet.New([6]byte{2, 5: 1}, network)
	devices[devNet] = card
	code := slices.Concat(round, refill(r), notify(r))
	attack{
		devices: devices, code: [][]byte{repeat(20, code)}, once: drive(devNet, 0, r), ram: ram, grows: 64 << 20,
		after: closeNetwork,
	}.run(t)
	if denied.Load() == 0 || dialed.Load() == 0 {
		t.Errorf("%d flows denied, %d dialed", denied.Load(), dialed.Load())
	}
	t.Logf("%d flows denied, %d dialed", denied.Load(), dialed.Load())
}
