package machine

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/virtio/vsock"
)

const (
	vsockRequest = 1
	vsockReset   = 3
	vsockData    = 5

	listenPort = 80
)

// packet is the header of a packet from a guest's port.
func packet(from, to uint32, op uint16, length uint32) []byte {
	le := binary.LittleEndian
	b := le.AppendUint64(nil, hostileCID)
	b = le.AppendUint64(b, 2)
	b = le.AppendUint32(b, from)
	b = le.AppendUint32(b, to)
	b = le.AppendUint32(b, length)
	b = le.AppendUint16(b, 1) // a stream's
	b = le.AppendUint16(b, op)
	b = le.AppendUint32(b, 0)     // flags
	b = le.AppendUint32(b, 1<<18) // room
	return le.AppendUint32(b, 0)
}

// A guest that floods the host with packets: connection requests, data to ports where nobody listens,
// connections that it resets at once. It does so with buffers for the answers and without, and by
// notifying as well as by filling the queue for as long as the host's side serves it.
func TestHostileSockets(t *testing.T) {
	for name, packets := range map[string]func(i uint32) []byte{
		"requests":        func(i uint32) []byte { return packet(i, listenPort, vsockRequest, 0) },
		"requests to all": func(i uint32) []byte { return packet(7, 1000+i, vsockRequest, 0) },
		"data to nobody":  func(i uint32) []byte { return append(packet(i, 81, vsockData, 100), make([]byte, 100)...) },
		"request, data and reset": func(i uint32) []byte {
			op := []uint16{vsockRequest, vsockData, vsockReset}[i%3]
			return packet(i/3, listenPort, op, 0)
		},
		"no operation at all": func(i uint32) []byte { return packet(i, listenPort, uint16(i*1000), 0) },
	} {
		for _, answers := range []string{"with answers", "without answers"} {
			for _, how := range []string{"notified", "not notified", "notified by another"} {
				t.Run(name+" "+answers+" "+how, func(t *testing.T) {
					rx, tx := hostileRing(devVsock, 0), hostileRing(devVsock, 1)
					ram := memory{}
					ram.fill(rx, 0, func(i int) descriptor {
						return descriptor{addr: hostileBuffers + 0x10000 + 1024*uint64(i), len: 1024, flags: descWrite}
					})
					ram.fill(tx, 0, func(i int) descriptor {
						at, p := hostileBuffers+1024*uint64(i), packets(uint32(i))
						ram[at] = p
						return descriptor{addr: at, len: uint32(len(p))}
					})
					a := attack{once: drive(devVsock, 0, rx, tx), ram: ram}
					round := refill(tx)
					if answers == "with answers" {
						round = slices.Concat(round, refill(rx))
					}
					switch how {
					case "notified":
						a.code = [][]byte{slices.Concat(round, notify(tx), notify(rx))}
					case "not notified":
						a.code = [][]byte{repeat(1<<16, round)}
					default: // by one that then waits for the queue to be empty
						a.code = [][]byte{repeat(1<<16, round), slices.Concat(notify(tx), notify(rx))}
						a.waits = 1
					}
					floodSockets(t, a)
				})
			}
		}
	}
}

// floodSockets runs an attack on a host that accepts connections, and dials.
func floodSockets(t *testing.T, a attack) {
	a.devices = everyDevice(t)
	d := a.devices[devVsock].(*vsock.Device)
	var host sync.WaitGroup
	var l net.Listener
	a.before = func(t *testing.T) {
		var err error
		if l, err = d.Listen(listenPort); err != nil {
			t.Fatal(err)
		}
		host.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				host.Go(func() {
					_ = c.SetDeadline(time.Now().Add(10 * time.Millisecond))
					_, _ = io.Copy(io.Discard, c)
					_ = c.Close()
				})
			}
		})
	}
	a.during = func(t *testing.T) {
		// Calls of the host end when they are to, whatever the guest does meanwhile.
		for range 20 {
			within(t, "Dial", func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				if c, err := d.Dial(ctx, 9); err == nil {
					_ = c.Close()
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Logf("dial: %v", err)
				}
			})
		}
	}
	a.after = func(t *testing.T) {
		within(t, "closing the device", func() {
			_ = l.Close()
			_ = d.Close()
			host.Wait()
		})
	}
	a.run(t)
}
