package sandbox_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

func TestEgressRule(t *testing.T) {
	prefix := netip.MustParsePrefix
	for text, want := range map[string]sandbox.EgressRule{
		"pypi.org":               {Name: "pypi.org"},
		"PyPI.org.:443":          {Name: "pypi.org", FirstPort: 443, LastPort: 443},
		"*.debian.org":           {Name: "*.debian.org"},
		"*":                      {Name: "*"},
		"tcp://*:443":            {Protocol: "tcp", Name: "*", FirstPort: 443, LastPort: 443},
		"_srv.example.org":       {Name: "_srv.example.org"},
		"db:5432":                {Name: "db", FirstPort: 5432, LastPort: 5432},
		"tcp:80":                 {Name: "tcp", FirstPort: 80, LastPort: 80},
		"10.1.2.0/24":            {Prefix: prefix("10.1.2.0/24")},
		"10.1.2.0/24:8000-8100":  {Prefix: prefix("10.1.2.0/24"), FirstPort: 8000, LastPort: 8100},
		"1.2.3.4":                {Prefix: prefix("1.2.3.4/32")},
		"UDP://192.0.2.7/32:123": {Protocol: "udp", Prefix: prefix("192.0.2.7/32"), FirstPort: 123, LastPort: 123},
		"0.0.0.0/0:1-65535":      {Prefix: prefix("0.0.0.0/0"), FirstPort: 1, LastPort: 65535},
		"169.254.169.254:80":     {Prefix: prefix("169.254.169.254/32"), FirstPort: 80, LastPort: 80},
	} {
		got, err := sandbox.ParseEgressRule(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		if again, err := sandbox.ParseEgressRule(got.String()); err != nil || again != got {
			t.Errorf("%s: its text %s is %+v, %v", text, got, again, err)
		}
	}
}

// What means nothing is refused with what to write instead.
func TestInvalidEgressRules(t *testing.T) {
	for text, remedy := range map[string]string{
		"":                                "pypi.org",
		":443":                            "pypi.org",
		"tcp://":                          "pypi.org",
		"https://pypi.org/simple":         `"pypi.org:443"`,
		"ftp://pypi.org":                  "tcp://",
		"pypi.org/simple":                 "the host only",
		"pypi.org:":                       "all ports",
		"pypi.org:0":                      "1 to 65535",
		"pypi.org:http":                   "1 to 65535",
		"pypi.org:+80":                    "1 to 65535",
		"pypi.org:080":                    "1 to 65535",
		"pypi.org:90-80":                  "8000-8100",
		"pypi.org:80-":                    "8000-8100",
		"pypi.org:70000":                  "65535",
		"[::1]:80":                        "IPv4 only",
		"2001:db8::/32":                   "IPv4 only",
		"10.1.2.3/24":                     `"10.1.2.0/24"`,
		"10.1.2.0/33":                     "10.1.2.0/24",
		"10.1.2/24":                       "10.1.2.0/24",
		"10.1.2.256":                      "192.0.2.7",
		"127.1":                           "192.0.2.7",
		"0x7f000001":                      "192.0.2.7",
		"2130706433":                      "192.0.2.7",
		"010.0.0.1":                       "192.0.2.7",
		"127.0.0.1:8080":                  "no rule",
		"127.0.0.0/8":                     "no rule",
		"localhost:80":                    "no rule",
		"*.localhost":                     "no rule",
		"0.0.0.0":                         `"*"`,
		"224.0.0.1":                       "hosts",
		"255.255.255.255":                 "hosts",
		"*pypi.org":                       "beginning",
		"a.*.org":                         "beginning",
		"**":                              "beginning",
		"-x.org":                          "letters",
		"x..org":                          "letters",
		"a b.org":                         "letters",
		"bücher.example":                  "xn--",
		strings.Repeat("a", 64):           "letters",
		strings.Repeat("a.", 200) + "org": "host",
	} {
		r, err := sandbox.ParseEgressRule(text)
		var e *sandbox.Error
		if !errors.Is(err, sandbox.ErrInvalid) || !errors.As(err, &e) || !strings.Contains(e.Remedy, remedy) || len(e.Detail) > 500 {
			t.Errorf("%q: %+v, %v; want ErrInvalid with %q", text, r, err, remedy)
		}
	}
}

func TestSpecEgress(t *testing.T) {
	base := sandbox.Spec{Image: sandbox.Image{Rootfs: "/r"}}
	for name, c := range map[string]struct {
		network sandbox.Network
		egress  []string
		rules   int // -1: invalid
	}{
		"no network":            {"", nil, 0},
		"everything public":     {sandbox.NetworkOutbound, nil, 1},
		"two":                   {sandbox.NetworkOutbound, []string{"pypi.org", "10.0.0.0/8"}, 2},
		"rules without network": {"", []string{"pypi.org"}, -1},
		"a bad one":             {sandbox.NetworkOutbound, []string{"pypi.org", "a/b"}, -1},
		"too many":              {sandbox.NetworkOutbound, make([]string, sandbox.MaxEgressRules+1), -1},
	} {
		s := base
		s.Network, s.Egress = c.network, c.egress
		s, err := s.WithDefaults()
		if c.rules < 0 {
			if e, ok := errors.AsType[*sandbox.Error](err); !ok || !errors.Is(err, sandbox.ErrInvalid) || e.Remedy == "" {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		rules, err2 := s.EgressRules()
		if err != nil || err2 != nil || len(rules) != c.rules {
			t.Errorf("%s: %v, %v, %v", name, rules, err, err2)
		}
		if err := s.RefuseEgressRules("create", "x"); errors.Is(err, sandbox.ErrUnsupported) != (len(c.egress) > 0) {
			t.Errorf("%s: refused with %v", name, err)
		}
	}
}

func FuzzEgressRule(f *testing.F) {
	for _, text := range []string{"pypi.org", "*.debian.org:443", "10.1.2.0/24:8000-8100", "udp://1.2.3.4:53", "*", "[::1]:1", "https://x/y"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := sandbox.ParseEgressRule(text)
		if err != nil {
			if e, ok := errors.AsType[*sandbox.Error](err); !ok || !errors.Is(err, sandbox.ErrInvalid) || e.Remedy == "" {
				t.Fatalf("%v", err)
			}
			return
		}
		if (r.Name == "") == !r.Prefix.IsValid() || r.FirstPort > r.LastPort {
			t.Fatalf("%+v", r)
		}
		if again, err := sandbox.ParseEgressRule(r.String()); err != nil || again != r {
			t.Fatalf("%+v has the text %s, which is %+v, %v", r, r, again, err)
		}
	})
}
