package usernet

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// counting counts what is read of an endless stream.
type counting struct {
	net.Conn
	n *atomic.Int64
}

func (c counting) Read(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// A guest that opens connections and does not read what comes does not have the gateway keep much of
// it.
func TestUnreadDataIsBounded(t *testing.T) {
	var n atomic.Int64
	g := newGuest(t, Config{
		Rules: []Rule{{Prefix: netip.MustParsePrefix("8.8.8.0/24")}},
		Dial: func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, far) }()
			return counting{near, &n}, nil
		},
	})
	small := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: 4096, Max: 4096}
	if err := g.SetTransportProtocolOption(tcp.ProtocolNumber, &small); err != nil {
		t.Fatal(err)
	}
	const flows = 4
	for range flows {
		c, err := g.tcp(t, "8.8.8.8:80")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	// Until nothing comes for a while.
	last := int64(-1)
	for start := time.Now(); n.Load() != last && time.Since(start) < 20*time.Second; time.Sleep(300 * time.Millisecond) {
		last = n.Load()
	}
	if each := n.Load() / flows; each > 2*maxBuffer {
		t.Errorf("the gateway has taken %d KiB of each connection", each>>10)
	}
}

// A guest that is denied a thousand flows a moment is reported now and then, and none is lost.
func TestReportsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan Flow, 1000)
		r := reports{tell: func(f Flow) { told <- f }}
		for range 3 {
			for i := range 1000 {
				r.add(Flow{Protocol: TCP, To: netip.AddrPortFrom(addr("192.0.2.1"), uint16(i%500))})
			}
			if len(told) != maxDenied {
				t.Errorf("%d reports at once", len(told))
			}
			time.Sleep(deniedInterval)
			synctest.Wait()
			reports, total := len(told), int64(0)
			for range reports {
				total += (<-told).Count
			}
			if reports != 2*maxDenied+1 || total != 1000 {
				t.Errorf("%d reports, of %d flows", reports, total)
			}
		}
		r.add(Flow{Name: "x"})
		r.add(Flow{Name: "x"})
		r.close()
		r.add(Flow{Name: "y"})
		if len(told) != 2 {
			t.Errorf("%d reports at the end", len(told))
		}
	})
}
