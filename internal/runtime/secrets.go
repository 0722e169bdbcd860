package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"regexp"
	"slices"

	"github.com/aethervm/aether/internal/egress"
	"github.com/aethervm/aether/internal/egress/inject"
	"github.com/aethervm/aether/sandbox"
)

// Secret is a credential that sandboxes may use, and never see: a header in their requests to one host (see package
// inject). It is the operator who says to which.
type Secret struct {
	// Host is a name in lower case, and Port that of HTTPS; 0 is 443.
	Host string
	Port uint16
	// Plain has it sent over plain HTTP on port 80 too, where everybody on the way can read it.
	Plain bool
	// Header is set to Prefix and the credential.
	Header, Prefix string
	// Value returns the credential, of at least 8 bytes. It is asked for each request, by several goroutines. Its
	// error is shown to nobody.
	Value func(ctx context.Context) (string, error)
}

// SecretUse asks for a secret.
type SecretUse struct {
	// Name is one of Config.Secrets.
	Name string `json:"name"`
	// Fork has the sandbox's forks use it too. Snapshots have none.
	Fork bool `json:"fork,omitempty"`
}

// maxBundle bounds the certificates that an image trusts, in bytes.
const maxBundle = 4 << 20

var secretNameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func checkSecrets(secrets map[string]Secret) error {
	for name, s := range secrets {
		if !secretNameRE.MatchString(name) {
			return refuse(CodeInvalid, "open", "use up to 64 letters, digits, '.', '_' and '-'", "%q is no name for a secret", name)
		}
		if err := s.rule(SecretUse{Name: name}).Check(); err != nil {
			return refuse(CodeInvalid, "open", "see `aether help run` for how a secret is given", "secret %q: %v", name, err)
		}
		if s.Value == nil {
			return refuse(CodeInvalid, "open", "give Value", "nobody has the secret %q", name)
		}
	}
	return nil
}

func (s Secret) rule(use SecretUse) inject.Rule {
	return inject.Rule{Host: s.Host, Port: s.Port, Plain: s.Plain, Header: s.Header, Prefix: s.Prefix, Secret: use.Name, Fork: use.Fork}
}

// flows are what a sandbox must be allowed for a secret to be of use, as rules.
func (s Secret) flows() []string {
	port := s.Port
	if port == 0 {
		port = 443
	}
	flows := []string{fmt.Sprintf("tcp://%s:%d", s.Host, port)}
	if s.Plain {
		flows = append(flows, fmt.Sprintf("tcp://%s:80", s.Host))
	}
	return flows
}

// allowSecrets refuses secrets that there are not, and lets the sandbox reach their hosts: nothing else, if it was to
// have no network. What the operator lets nobody reach is refused for a secret too.
func (r *Runtime) allowSecrets(op string, spec *SandboxSpec) error {
	if len(spec.Secrets) == 0 {
		return nil
	}
	if spec.Network == sandbox.NetworkNone {
		return refuse(CodeInvalid, op, "leave the network out: it is then one to the hosts of the secrets", "there are secrets, and the network is %q", spec.Network)
	}
	everything := spec.Network == sandbox.NetworkOutbound && len(spec.Egress) == 0
	rules := slices.Clone(spec.Egress)
	for i, use := range spec.Secrets {
		s, ok := r.cfg.Secrets[use.Name]
		if !ok || slices.ContainsFunc(spec.Secrets[:i], func(other SecretUse) bool { return other.Name == use.Name }) {
			return refuse(CodeInvalid, op, "name each secret once, as it was given to `aether serve --secret`", "there is no secret %q, or it is asked for twice", use.Name)
		}
		for _, text := range s.flows() {
			flow, err := sandbox.ParseEgressRule(text)
			if err == nil && r.egress != nil {
				err = r.egress.Check(flow)
			}
			if err != nil {
				return refuse(CodeDenied, op, "ask whoever runs aether to allow it", "the host of the secret %q is not allowed here: %v", use.Name, err)
			}
			if !slices.Contains(rules, text) {
				rules = append(rules, text)
			}
		}
	}
	spec.Network = sandbox.NetworkOutbound
	if !everything {
		spec.Egress = rules
	}
	return nil
}

// injector makes what opens the flows of a sandbox with secrets; nil for one without.
func (r *Runtime) injector(op string, spec SandboxSpec) (*inject.Injector, error) {
	if len(spec.Secrets) == 0 {
		return nil, nil
	}
	cfg := r.outside
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	for _, use := range spec.Secrets {
		cfg.Rules = append(cfg.Rules, r.cfg.Secrets[use.Name].rule(use))
	}
	var reach []string
	for _, text := range spec.Egress {
		if _, err := egress.NewLimit(text); err == nil { // by other rules no host of a secret is reached
			reach = append(reach, text)
		}
	}
	if len(reach) > 0 {
		var err error
		if cfg.Limit, err = egress.NewLimit(reach...); err != nil {
			return nil, err
		}
	}
	cfg.Secrets = func(ctx context.Context, name string) (string, error) { return r.cfg.Secrets[name].Value(ctx) }
	i, err := inject.New(cfg)
	if errors.Is(err, inject.ErrRule) {
		return nil, refuse(CodeInvalid, op, "leave one of them out", "the secrets do not go together: %v", err)
	}
	return i, err
}

// trust has the programs of a sandbox trust the injector, beside what its image trusts.
func trust(ctx context.Context, sb sandbox.Sandbox, i *inject.Injector) error {
	var image bytes.Buffer
	for _, name := range inject.ImageBundles() {
		err := sb.ReadFile(ctx, name, &capped{&image, maxBundle})
		if err == nil {
			break
		}
		if image.Reset(); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return sb.WriteFile(ctx, inject.BundleFile, bytes.NewReader(i.Bundle(image.Bytes())), 0o644)
}

// capped is a buffer that takes no more than so many bytes.
type capped struct {
	to   *bytes.Buffer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	if c.left -= len(p); c.left < 0 {
		return 0, fmt.Errorf("the certificates of the image are more than %d bytes", maxBundle)
	}
	return c.to.Write(p)
}

// inherited are the secrets that the forks of a sandbox use too.
func inherited(secrets []SecretUse) []SecretUse {
	return slices.DeleteFunc(slices.Clone(secrets), func(s SecretUse) bool { return !s.Fork })
}
