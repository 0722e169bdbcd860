// Package client is a client of the REST API of `aether serve` (docs/REST.md), for Go programs and for aether's own
// command line. The types of requests and answers are those of the packages that serve them.
package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/access"
	"github.com/aethervm/aether/internal/server/rest"
)

// maxAnswer bounds an answer that is no stream, in bytes.
const maxAnswer = 64 << 20

// continueWait is how long a server may take to say that it wants a body, before it is sent one all the same.
const continueWait = 5 * time.Second

// Client talks to one server. Its methods may be called concurrently. An error of the server is a *runtime.Error; one
// of the connection is not.
type Client struct {
	base   string
	http   *http.Client
	header http.Header
}

// Option changes how a client asks.
type Option func(*Client)

// WithToken sends a tenant's token; an empty one is none.
func WithToken(token string) Option {
	if token == "" {
		return func(*Client) {}
	}
	return WithHeader("Authorization", "Bearer "+token)
}

// WithSession asks for one session of the tenant.
func WithSession(name string) Option { return WithHeader(access.SessionHeader, name) }

// WithTenant asks for a tenant, over the socket of the server's owner.
func WithTenant(name string) Option { return WithHeader(access.TenantHeader, name) }

// WithHeader sends a header with each request; an empty value is none.
func WithHeader(name, value string) Option {
	return func(c *Client) {
		if value != "" {
			c.header.Set(name, value)
		}
	}
}

// New is a client of the server at an address: http://HOST:PORT, https://HOST:PORT, or unix:PATH.
func New(address string, options ...Option) (*Client, error) {
	c := &Client{base: strings.TrimSuffix(address, "/"), http: &http.Client{}, header: http.Header{}}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		c.base = "http://localhost"
		c.http.Transport = &http.Transport{ExpectContinueTimeout: continueWait, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}}
	} else if u, err := url.Parse(address); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("server %q: want http://HOST:PORT, https://HOST:PORT or unix:PATH", address)
	}
	for _, o := range options {
		o(c)
	}
	return c, nil
}

// Close ends the connections that are idle.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// NewKey is an idempotency key that nobody else has.
func NewKey() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails: crypto/rand ends the process instead
	return hex.EncodeToString(b)
}

// path joins elements that come from elsewhere to a path below /v1.
func path(elements ...string) string {
	var b strings.Builder
	b.WriteString("/v1")
	for _, e := range elements {
		b.WriteString("/" + url.PathEscape(e))
	}
	return b.String()
}

// request begins one. A body that is no reader is sent as JSON.
func (c *Client) request(ctx context.Context, method, path string, query url.Values, body any) (*http.Request, error) {
	var r io.Reader
	kind := ""
	switch b := body.(type) {
	case nil:
	case io.Reader:
		r, kind = b, "application/octet-stream"
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		r, kind = bytes.NewReader(raw), "application/json"
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, r)
	if err != nil {
		return nil, err
	}
	for name, values := range c.header {
		req.Header[name] = values
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if _, ok := body.(io.Reader); ok {
		// A server that refuses closes the connection. Whoever is sending then has a broken pipe in place of the answer,
		// so that nothing is sent before the server has begun to read.
		req.Header.Set("Expect", "100-continue")
	}
	return req, nil
}

// send sends a request, and makes an answer that is a problem an error.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	res, err := c.http.Do(req)
	if err != nil {
		if cause := context.Cause(req.Context()); cause != nil {
			return nil, cause
		}
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
			// Not wrapped: a broken pipe is for commands the end of their own output.
			return nil, errors.New("the server has ended the connection: " + err.Error())
		}
		return nil, err
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if problem := problemIn(raw); problem != nil {
		return nil, problem
	}
	return nil, fmt.Errorf("%s %s: the server answered %s, which is no answer of aether's API", req.Method, req.URL.Path, res.Status)
}

// problemIn is the error that a server has sent; nil if what it has sent is none.
func problemIn(raw []byte) *runtime.Error {
	var p rest.Problem
	if json.Unmarshal(raw, &p) != nil || p.Code == "" {
		return nil
	}
	return problemError(p)
}

// problemError is a problem as the error that it was.
func problemError(p rest.Problem) *runtime.Error {
	e := &runtime.Error{Code: p.Code, Op: p.Op, Sandbox: p.Sandbox, Cause: p.Cause, Remedy: p.Remedy, Budget: p.Budget}
	for _, d := range p.Errors {
		e.Cause += fmt.Sprintf("; %s: %s", d.Location, d.Message)
	}
	return e
}

// do sends a request and decodes the answer into out, which may be nil.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body, out any, headers ...string) error {
	req, err := c.request(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] != "" {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	res, err := c.send(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if out == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
		return err
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, req.URL.Path, err)
	}
	return nil
}

// all reads every page of a listing.
func all[P, T any](ctx context.Context, c *Client, path string, query url.Values, items func(P) ([]T, string)) ([]T, error) {
	list := []T{}
	q := url.Values{"limit": {"1000"}}
	for name, values := range query {
		q[name] = values
	}
	for {
		var page P
		if err := c.do(ctx, http.MethodGet, path, q, nil, &page); err != nil {
			return nil, err
		}
		part, next := items(page)
		list = append(list, part...)
		if next == "" {
			return list, nil
		}
		q.Set("cursor", next)
	}
}

// Unreachable tells whether an error says that no server is there.
func Unreachable(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}
