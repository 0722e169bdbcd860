package runtimetest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/aethervm/aether/sandbox"
)

// fetch gets a URL over the sandbox's Outside, from an address, and writes the status, the answer's headers and its
// body. It trusts what the environment of the sandbox says.
func (b *box) fetch(ctx context.Context, address, url string, w io.Writer) error {
	if b.outside == nil {
		return errors.New("there is no network")
	}
	roots := x509.NewCertPool()
	for _, kv := range sandbox.Environ(b.state.spec.Env) {
		if name, ok := strings.CutPrefix(kv, "SSL_CERT_FILE="); ok {
			var bundle bytes.Buffer
			if err := b.ReadFile(ctx, name, &bundle); err != nil {
				return err
			}
			roots.AppendCertsFromPEM(bundle.Bytes())
		}
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return b.outside.Dial(ctx, network, address)
		},
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := fmt.Fprintln(w, res.StatusCode, res.Header); err != nil {
		return err
	}
	_, err = io.Copy(w, res.Body)
	return err
}
