package cell

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/vmm"
)

func examples() []message {
	return []message{
		{Kind: kindConfine, ID: 1, Confine: &confineMessage{
			Version: protocolVersion, VCPUs: 2, MemoryMiB: 256, Filter: []byte{6, 0, 0, 0, 0, 0, 0, 0},
		}},
		{Kind: kindBoot, ID: 2, Boot: &bootMessage{
			Cmdline: "quiet", Disks: 1,
			Network: &networkPart{
				Allow:     []vmm.Rule{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), FirstPort: 80, LastPort: 443, Protocol: "tcp"}, {Name: "*.example.org"}},
				Interface: vmm.Interface{MAC: [6]byte{2, 3}},
			},
		}},
		{Kind: kindConfined, Layers: Confinement{{Name: LayerRoot, Applied: true, Detail: "empty"}}},
		{Kind: kindDial, ID: 7, Port: 1024}, {Kind: kindSent, ID: 11}, {Kind: kindReply, ID: 11, Sent: 1 << 40},
		{Kind: kindReply, ID: 7, Failure: &failure{Kind: "refused", Text: "no"}},
		{Kind: kindFlow, ID: 1, Flow: &flowMessage{Protocol: "tcp", To: netip.MustParseAddrPort("192.0.2.1:80")}},
		{Kind: kindResolve, ID: 2, Name: "www.example.org"},
		{Kind: kindAnswer, ID: 2, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
		{Kind: kindEnded, End: &endMessage{Reason: "powered off"}},
	}
}

func TestRoundTrip(t *testing.T) {
	for _, m := range examples() {
		b, err := encode(&m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%s: %+v: %v", b, got, err)
		}
	}
}

func TestMalformed(t *testing.T) {
	for _, text := range []string{
		"", "{", "null x", `{"kind":"boot"}`, `{"kind":"confine"}`, `{"kind":"boot","boot":{"disks":-1}}`, `{"kind":"boot","boot":{"branch":true,"branch_layers":1000}}`,
		`{"kind":"surprise"}`, `{"kind":"ended"}`, `{"kind":"flow"}`, `{"kind":"reply","more":1}`,
		`{"kind":"reply"}{"kind":"reply"}`, `{"kind":"reply","failure":{"text":"` + strings.Repeat("x", maxText+1) + `"}}`,
		`{"kind":"resolve","name":"` + strings.Repeat("x", maxName+1) + `"}`, `{"kind":"flow","flow":{"protocol":"sctp","to":"192.0.2.1:80"}}`,
		`{"kind":"reply","name":"` + strings.Repeat("x", maxMessage) + `"}`,
	} {
		if m, err := decode([]byte(text)); err == nil {
			t.Errorf("%.80q: %+v", text, m)
		}
	}
}

func TestErrorsKeepWhatTheyAre(t *testing.T) {
	for _, target := range failureKinds() {
		if err := fail(errors.Join(errors.New("context"), target)).err(); !errors.Is(err, target) {
			t.Errorf("%v has become %v", target, err)
		}
	}
	if fail(nil).err() != nil {
		t.Error("no error has become one")
	}
	if err := fail(errors.New(strings.Repeat("x", 2*maxText))).err(); len(err.Error()) > maxText {
		t.Error("an error of any length")
	}
}

// Whatever a cell says, the owner gets a message within all bounds, or an error.
func FuzzDecode(f *testing.F) {
	for _, m := range examples() {
		b, err := encode(&m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"kind":"reply","sent":-1}`))
	f.Add([]byte(`{"kind":"ended","end":{"reason":"\u001b[2J","detail":"\ud800"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			return
		}
		if m.Failure != nil && (len(m.Failure.Text) > maxText || strings.ContainsRune(m.Failure.Text, '\x1b')) {
			t.Errorf("error %q", m.Failure.Text)
		}
		if len(m.Layers) > maxLayers || len(m.Addrs) > maxAddrs || len(m.Name) > maxName {
			t.Error("out of bounds")
		}
		if m.Kind == kindReply && m.Sent < 0 {
			t.Errorf("%d bytes sent", m.Sent)
		}
		if m.End != nil && m.Kind == kindEnded && strings.ContainsRune(m.End.Reason+m.End.Detail, '\x1b') {
			t.Errorf("end %+q", m.End)
		}
		// What was understood can be said again.
		if _, err := encode(&m); err != nil && len(b) < maxMessage/8 {
			t.Error(err)
		}
	})
}

// hostile is an owner's link whose cell is the test.
func hostile(t *testing.T, handle func(message) error) (*link, *net.UnixConn, chan error) {
	t.Helper()
	ours, theirs, err := packetPair()
	if err != nil {
		t.Fatal(err)
	}
	cell, err := net.FileConn(theirs)
	if err := errors.Join(err, theirs.Close()); err != nil {
		t.Fatal(err)
	}
	l := newLink(ours, handle)
	served := make(chan error, 1)
	go func() { served <- l.serve() }()
	t.Cleanup(func() {
		_ = cell.Close()
		if err := l.close(); err != nil {
			t.Error(err)
		}
	})
	return l, cell.(*net.UnixConn), served
}

func await(t *testing.T, served chan error) error {
	t.Helper()
	select {
	case err := <-served:
		return err
	case <-time.After(5 * time.Second):
		t.Fatal("the owner goes on")
		return nil
	}
}

func TestHostileCells(t *testing.T) {
	for name, text := range map[string]string{
		"garbage":             "\x00\xff",
		"a reply to nothing":  `{"kind":"reply","id":99}`,
		"a second boot reply": `{"kind":"reply","id":1}`,
		"a request":           `{"kind":"boot","boot":{"version":1}}`,
		"too long":            strings.Repeat(" ", maxMessage+1),
	} {
		t.Run(name, func(t *testing.T) {
			c := &Cell{process: &process{}}
			var err error
			c.link, _, _ = hostile(t, nil)
			_, cell, served := hostile(t, c.handle)
			if _, err = cell.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			if err := await(t, served); err == nil {
				t.Error("the owner takes it")
			}
		})
	}
}

// Descriptors that a cell sends do not arrive.
func TestNoDescriptorsFromCells(t *testing.T) {
	got := make(chan message, 1)
	_, cell, _ := hostile(t, func(m message) error { got <- m; return nil })
	before := count(t, "/proc/self/fd")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := cell.WriteMsgUnix([]byte(`{"kind":"denied","flow":{"protocol":"tcp","to":"192.0.2.1:1"}}`), unix.UnixRights(int(null.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	_ = null.Close()
	<-got
	if after := count(t, "/proc/self/fd"); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func TestCallsEndWithTheLink(t *testing.T) {
	l, cell, served := hostile(t, nil)
	result := make(chan error)
	go func() {
		_, err := l.call(t.Context(), message{Kind: kindPause})
		result <- err
	}()
	buf := make([]byte, maxMessage)
	if _, err := cell.Read(buf); err != nil {
		t.Fatal(err)
	}
	if err := cell.Close(); err != nil {
		t.Fatal(err)
	}
	if err := await(t, served); err != nil {
		t.Error(err)
	}
	if err := <-result; !errors.Is(err, errLinkClosed) {
		t.Error(err)
	}
	if _, err := l.call(t.Context(), message{Kind: kindPause}); !errors.Is(err, errLinkClosed) {
		t.Error(err)
	}
}

// A call that was given up is cancelled in the cell, whose late reply is no offence.
func TestAbandonedDial(t *testing.T) {
	l, cell, _ := hostile(t, nil)
	ours, theirs, err := streamPair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() {
		_, err := l.call(ctx, message{Kind: kindDial, Port: 1}, theirs)
		result <- err
	}()
	buf := make([]byte, maxMessage)
	read := func() message {
		n, err := cell.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		m, err := decode(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	dial := read()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if m := read(); m.Kind != kindCancel || m.ID != dial.ID {
		t.Errorf("%+v", m)
	}
	b, err := encode(&message{Kind: kindReply, ID: dial.ID, Failure: fail(context.Canceled)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cell.Write(b); err != nil {
		t.Fatal(err)
	}
	// The link still works.
	go func() {
		_, err := l.call(t.Context(), message{Kind: kindPause})
		result <- err
	}()
	pause := read()
	if b, err = encode(&message{Kind: kindReply, ID: pause.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := cell.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// The owner holds a cell to its rules, and hands it the sockets of those flows that they allow.
func TestFlows(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	to := netip.MustParseAddrPort(listener.Addr().String())
	denied := make(chan vmm.Flow, 8)
	f, err := newFlows(&vmm.Network{
		Allow:  []vmm.Rule{{Prefix: netip.PrefixFrom(to.Addr(), 32), FirstPort: to.Port(), LastPort: to.Port()}, {Name: "good.example"}},
		Denied: func(f vmm.Flow) { denied <- f },
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("8.8.8.8")}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	linked := make(chan struct{})
	l, cell, _ := hostile(t, func(m message) error { <-linked; return f.handle(m) })
	f.link = l
	close(linked)
	ask := func(m message) (message, int) {
		t.Helper()
		b, err := encode(&m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cell.Write(b); err != nil {
			t.Fatal(err)
		}
		buf, rights := make([]byte, maxMessage), make([]byte, 64)
		n, nr, _, _, err := cell.ReadMsgUnix(buf, rights)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := decode(buf[:n])
		if err != nil || answer.ID != m.ID {
			t.Fatalf("%+v: %v", answer, err)
		}
		fd := -1
		if nr > 0 {
			list, err := unix.ParseSocketControlMessage(rights[:nr])
			if err != nil {
				t.Fatal(err)
			}
			fds, err := unix.ParseUnixRights(&list[0])
			if err != nil {
				t.Fatal(err)
			}
			fd = fds[0]
		}
		return answer, fd
	}
	answer, fd := ask(message{Kind: kindFlow, ID: 1, Flow: &flowMessage{Protocol: "tcp", To: to}})
	if answer.Failure != nil || fd < 0 {
		t.Fatalf("an allowed flow: %+v", answer.Failure)
	}
	s, err := newStream(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Read(make([]byte, 8)); n != 1 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Error(err)
	}
	if n, err := conn.Read(make([]byte, 8)); n != 0 || err == nil {
		t.Errorf("%d bytes, %v", n, err)
	}

	for _, to := range []string{"127.0.0.1:1", "8.8.8.8:53"} {
		answer, fd := ask(message{Kind: kindFlow, ID: 2, Flow: &flowMessage{Protocol: "tcp", To: netip.MustParseAddrPort(to)}})
		if answer.Failure == nil || fd >= 0 {
			t.Errorf("%s: allowed", to)
		}
		if got := <-denied; got.Protocol != "tcp" || got.To.String() != to || got.Count != 1 {
			t.Errorf("denied %+v", got)
		}
	}
	if answer, _ := ask(message{Kind: kindResolve, ID: 3, Name: "bad.example"}); answer.Failure == nil {
		t.Error("a name that no rule is about")
	}
	if got := <-denied; got.Protocol != "dns" || got.Name != "bad.example" {
		t.Errorf("denied %+v", got)
	}
	if answer, _ := ask(message{Kind: kindResolve, ID: 4, Name: "good.example"}); len(answer.Addrs) != 1 {
		t.Errorf("an allowed name: %+v", answer)
	}
	for _, want := range []vmm.Flow{{Protocol: "udp", To: to, Count: 3}, {Count: 1000}} {
		b, err := encode(&message{Kind: kindDenied, Flow: &flowMessage{Protocol: want.Protocol, To: want.To, Count: want.Count}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cell.Write(b); err != nil {
			t.Fatal(err)
		}
		if got := <-denied; got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

// A stream from one end to the other, each direction ended on its own.
func TestSplice(t *testing.T) {
	owner, program, done := spliced(t)
	data := strings.Repeat("0123456789abcdef", 1<<16)
	go func() {
		_, _ = owner.Write([]byte(data))
		_ = owner.CloseWrite()
	}()
	if got := readAll(t, program); got != data {
		t.Errorf("%d bytes of %d", len(got), len(data))
	}
	go func() {
		_, _ = program.Write([]byte(data))
		_ = program.Close()
	}()
	if got := readAll(t, owner); got != data {
		t.Errorf("%d bytes of %d back", len(got), len(data))
	}
	<-done
	_ = owner.Close()
}

func readAll(t *testing.T, conn net.Conn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	buf := make([]byte, 1<<16)
	for {
		n, err := conn.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			return b.String()
		}
	}
}
