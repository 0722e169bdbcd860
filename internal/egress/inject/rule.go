package inject

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/aethervm/aether/sandbox"
)

// Rule sets a header in all requests to a host.
type Rule struct {
	// Host is a name in lower case, without wildcards.
	Host string `json:"host"`
	// Port is that of HTTPS; 0 is 443.
	Port uint16 `json:"port,omitempty"`
	// Plain has the credential sent over plain HTTP too, on port 80, where everybody on the way can read it.
	Plain bool `json:"plain,omitempty"`
	// Header is its name, as "Authorization". What the sandbox sets there itself is replaced.
	Header string `json:"header"`
	// Prefix comes before the credential, as in "Bearer ".
	Prefix string `json:"prefix,omitempty"`
	// Secret is the name under which the credential is asked for.
	Secret string `json:"secret"`
	// Fork has copies of the sandbox get it too.
	Fork bool `json:"fork,omitempty"`
}

// MaxRules bounds the rules of one sandbox.
const MaxRules = 32

// minSecret is the least length of a secret, in bytes: a shorter one cannot be told from other text in an answer.
const minSecret = 8

// ErrRule is wrapped by errors about rules that cannot be kept.
var ErrRule = errors.New("invalid rule for a credential")

// Check says what is wrong with a rule.
func (r Rule) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrRule, fmt.Sprintf(format, args...))
	}
	parsed, err := sandbox.ParseEgressRule(r.Host)
	switch {
	case err != nil || parsed.Name != r.Host || strings.Contains(r.Host, "*"):
		return bad("%q is no name of one host, in lower case", r.Host)
	case !httpguts.ValidHeaderFieldName(r.Header):
		return bad("%q is no name of a header", r.Header)
	case forbidden(r.Header):
		return bad("the header %s is about the connection or the message, not about who asks", r.Header)
	case !httpguts.ValidHeaderFieldValue(r.Prefix):
		return bad("the prefix cannot be in a header")
	case r.Secret == "":
		return bad("it names no secret")
	}
	return nil
}

// forbidden tells whether a header changes where a request goes, or where it ends.
func forbidden(header string) bool {
	switch http.CanonicalHeaderKey(header) {
	case "Host", "Connection", "Content-Length", "Transfer-Encoding", "Te", "Trailer", "Upgrade", "Expect", "Keep-Alive",
		"Proxy-Connection", "Accept-Encoding", "Content-Encoding":
		return true
	}
	return false
}

func (r Rule) port() uint16 {
	if r.Port == 0 {
		return httpsPort
	}
	return r.Port
}

// value is what the header is set to. The error has nothing of the secret.
func (r Rule) value(ctx context.Context, secrets func(context.Context, string) (string, error)) (value, secret string, err error) {
	secret, err = secrets(ctx, r.Secret)
	if err != nil {
		// Whoever keeps secrets may have put some into the error.
		return "", "", fmt.Errorf("the secret %q cannot be had", r.Secret)
	}
	if len(secret) < minSecret {
		return "", "", fmt.Errorf("the secret %q has less than %d bytes", r.Secret, minSecret)
	}
	if !httpguts.ValidHeaderFieldValue(secret) {
		return "", "", fmt.Errorf("the secret %q cannot be in a header", r.Secret)
	}
	return r.Prefix + secret, secret, nil
}
