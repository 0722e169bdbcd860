package sandboxtest

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// testNetwork is about outbound networks. A system may have none, and may have one without rules.
func (s *suite) testNetwork(t *testing.T) {
	s.testOutside(t)
	s.testSent(t)
	s.test(t, "RulesAreKeptOrRefused", func(t *testing.T, d sandbox.Driver) {
		spec := s.spec()
		// An address for documentation: nobody has it.
		spec.Network, spec.Egress = sandbox.NetworkOutbound, []string{"192.0.2.1:9", "*.allowed.example:443"}
		ctx, cancel := bounded(t)
		defer cancel()
		raw, err := d.Create(ctx, spec)
		if errors.Is(err, sandbox.ErrUnsupported) {
			if e, ok := errors.AsType[*sandbox.Error](err); !ok || e.Remedy == "" {
				t.Errorf("no remedy: %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		b := &box{raw}
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		targets := []string{"169.254.169.254:80", "198.51.100.1:80", "10.0.0.1:80", "192.168.0.1:80", "192.0.2.1:10", "[2001:db8::1]:80"}
		var refused []string // what leaves the sandbox, to be refused by the host
		for _, to := range targets {
			if !strings.HasPrefix(to, "[") {
				refused = append(refused, to)
			}
		}
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range addrs {
			if ip, ok := addr.(*net.IPNet); ok && !ip.IP.IsLinkLocalUnicast() {
				targets = append(targets, net.JoinHostPort(ip.IP.String(), fmt.Sprint(port)))
			}
		}
		const connect = `
import socket, sys
for to in sys.argv[1:]:
    host, port = to.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), 3)
        print("connected to", to)
    except OSError:
        pass
for name in "denied.example", "allowed.example", "localhost.denied.example":
    try:
        print(name, "is", socket.getaddrinfo(name, 80))
    except OSError:
        pass
`
		if got := b.must(t, append([]string{"python3", "-c", connect}, targets...)...); got != "" {
			t.Errorf("with the rules %q it has %s", spec.Egress, got)
		}
		if logger, ok := raw.(sandbox.EgressLogger); ok {
			for _, want := range append(refused, "denied.example") {
				var log sandbox.EgressLog
				if !eventually(5*time.Second, func() bool {
					if log, err = logger.EgressLog(ctx); err != nil {
						t.Fatal(err)
					}
					return slices.ContainsFunc(log.Refused, func(f sandbox.RefusedFlow) bool {
						return f.Count > 0 && (f.Address == want || f.Name == want)
					})
				}) {
					t.Errorf("%s is not in the record %+v", want, log)
				}
			}
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

// testSent checks that what a sandbox sends to its network is counted, whoever gets it.
func (s *suite) testSent(t *testing.T) {
	s.test(t, "SentIsCounted", func(t *testing.T, d sandbox.Driver) {
		spec := s.spec()
		spec.Network = sandbox.NetworkOutbound
		ctx, cancel := bounded(t)
		defer cancel()
		raw, err := d.Create(ctx, spec)
		if errors.Is(err, sandbox.ErrUnsupported) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		b := &box{raw}
		reader, ok := raw.(sandbox.StatsReader)
		if !ok {
			t.Fatal("it has a network, and does not tell how much it uses it")
		}
		before, err := reader.Stats(ctx)
		if err != nil {
			t.Fatal(err)
		}
		// To the sandbox's gateway, which is this host.
		const datagrams, size = 100, 1000
		const send = `
import socket, sys
routes = [line.split() for line in open("/proc/net/route")][1:]
gateway = next(socket.inet_ntoa(bytes.fromhex(r[2])[::-1]) for r in routes if r[1] == "00000000")
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(int(sys.argv[1])):
    try:
        out.sendto(bytes(int(sys.argv[2])), (gateway, 9))
    except ConnectionRefusedError:
        pass
`
		b.must(t, "python3", "-c", send, fmt.Sprint(datagrams), fmt.Sprint(size))
		var sent int64
		if !eventually(20*time.Second, func() bool {
			after, err := reader.Stats(ctx)
			if err != nil {
				t.Fatal(err)
			}
			sent = after.SentBytes - before.SentBytes
			return sent >= datagrams*size/2 // the first ones may be dropped while the gateway's address is looked up
		}) || sent > 2*datagrams*size {
			t.Errorf("%d bytes counted of %d", sent, datagrams*size)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}
