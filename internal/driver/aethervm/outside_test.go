package aethervm

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/egress/inject"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/vmm"
)

// The network of a sandbox whose flows are opened for it keeps it from the host all the same.
func TestOutsideKeepsFromHost(t *testing.T) {
	n, err := newNetwork("create", sandbox.Spec{Network: sandbox.NetworkOutbound, Outside: &inject.Injector{}}, outside{}, &cards{})
	if err != nil {
		t.Fatal(err)
	}
	if c := n.config(); c.Dial == nil || !c.KeepFromHost {
		t.Errorf("%+v", c)
	}
}

// A program's requests to the host of a rule have the credential there, and what the guest sees has it not. Copies
// have the rules that are for them.
func TestCredentials(t *testing.T) {
	const secret = "s3cr3t-of-the-host"
	d := open(t)
	own := alias(t, "203.0.113.9")
	neighbour := serve(t, own+":0")
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		what := "without"
		if r.Header.Get("Authorization") == "Bearer "+secret {
			what = "with"
		}
		fmt.Fprintf(w, "%s %s: %s", what, r.Host, r.Header)
	}))
	t.Cleanup(server.Close)
	d.outside.resolve = func(_ context.Context, name string) ([]netip.Addr, error) {
		if name != "example.com." && name != "www.example.com." {
			return nil, errors.New("unexpected name")
		}
		return []netip.Addr{netip.MustParseAddr("203.0.113.7")}, nil
	}
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	i, err := inject.New(inject.Config{
		Rules: []inject.Rule{
			{Host: "example.com", Header: "Authorization", Prefix: "Bearer ", Secret: "token"},
			{Host: "www.example.com", Header: "Authorization", Prefix: "Bearer ", Secret: "token", Fork: true},
		},
		Roots: roots, Secrets: func(context.Context, string) (string, error) { return secret, nil },
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != "203.0.113.7:443" {
				t.Errorf("a flow to %s", address)
			}
			return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := d.Create(bounded(t), sandbox.Spec{Image: testenv.Image(t), VCPUs: vcpus(t), Network: sandbox.NetworkOutbound, Outside: i, Env: inject.Environment()})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.WriteFile(bounded(t), inject.BundleFile, strings.NewReader(string(i.Bundle(nil))), 0o644); err != nil {
		t.Fatal(err)
	}
	reach(t, b, map[string]string{
		"https://example.com/":                               "with example.com: ",
		"https://www.example.com/":                           "with www.example.com: ",
		"http://" + neighbour.Listener.Addr().String() + "/": "refused:",
		"http://127.0.0.1:1/":                                "refused:",
	})
	if out := sh(t, b, "python3 -c '"+fetch+"' https://example.com/; env"); strings.Contains(out, secret) || !strings.Contains(out, strings.Repeat("*", len(secret))) {
		t.Errorf("the guest sees %q", out)
	}
	copies, err := b.(sandbox.Forker).Fork(bounded(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if conn, err := i.Dial(t.Context(), "tcp", "203.0.113.7:443"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("flows are opened for a sandbox that is closed: %v, %v", conn, err)
	}
	// The host's certificate is none that the guest trusts.
	reach(t, copies[0], map[string]string{"https://www.example.com/": "with www.example.com: ", "https://example.com/": "refused:"})
}

// counted counts what of it is open.
type counted struct{ copies, closed *int }

func (counted) Dial(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("nothing")
}
func (n counted) Copy() sandbox.Outside { *n.copies++; return n }
func (n counted) Close() error          { *n.closed++; return nil }

// What was made for a copy ends with the attempt, and a template has nothing of the kind.
func TestOutsideOfWhatIsNotMade(t *testing.T) {
	var copies, closed int
	out := counted{&copies, &closed}
	spec := sandbox.Spec{Network: sandbox.NetworkOutbound, Egress: []string{cardRange.String()}} // leaves no address for the guest
	if _, err := (original{driver: &Driver{}, spec: spec, outside: out}).start(t.Context(), "fork", nil, nil); err == nil || copies != 1 || closed != 1 {
		t.Errorf("%d made, %d closed, %v", copies, closed, err)
	}
	_, err := (&Driver{}).CreateTemplate(t.Context(), sandbox.TemplateSpec{Name: "t", Spec: sandbox.Spec{Network: sandbox.NetworkOutbound, Outside: out}})
	if e, ok := errors.AsType[*sandbox.Error](err); !ok || !errors.Is(err, sandbox.ErrUnsupported) || e.Remedy == "" {
		t.Errorf("a template: %v", err)
	}
}

// recorded is counted, with a record.
type recorded struct{ counted }

func (recorded) CredentialLog() ([]sandbox.CredentialUse, int64) {
	return []sandbox.CredentialUse{{Secret: "token", Host: "example.com", Method: "GET", Status: 200, Count: 2}}, 3
}

// The log of a network has the uses of credentials beside what was refused.
func TestCredentialsAreInTheEgressLog(t *testing.T) {
	for _, through := range []sandbox.Outside{recorded{}, counted{}, nil} {
		n := &network{through: through}
		n.denied(vmm.Flow{Protocol: "dns", Name: "elsewhere.example", Count: 1})
		log := n.log()
		_, records := through.(sandbox.CredentialLogger)
		if len(log.Refused) != 1 || records != (len(log.Credentials) == 1 && log.Credentials[0].Count == 2 && log.CredentialsOmitted == 3) {
			t.Errorf("%T: %+v", through, log)
		}
	}
	if log := (*network)(nil).log(); len(log.Refused)+len(log.Credentials) != 0 {
		t.Errorf("without a network: %+v", log)
	}
}
