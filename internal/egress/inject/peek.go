package inject

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	// maxPeek bounds what is read of a flow to find out what it is, in bytes.
	maxPeek = 64 << 10
	// peekPatience is how long that may take: on some ports it is the server that speaks first.
	peekPatience = 10 * time.Second
)

var errPeeked = errors.New("seen enough")

// peekName reads the beginning of a flow that may be TLS, and returns the name of the host that the client wants,
// or "". What was read is in seen.
func peekName(r io.Reader) (name string, seen []byte) {
	var buf bytes.Buffer
	conn := peekConn{r: io.TeeReader(io.LimitReader(r, maxPeek), &buf)}
	_ = tls.Server(conn, &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			name = hello.ServerName
			return nil, errPeeked
		},
	}).Handshake()
	return canonical(name), buf.Bytes()
}

// peekHost is peekName for plain HTTP.
func peekHost(r io.Reader) (host string, seen []byte) {
	var buf bytes.Buffer
	req, err := http.ReadRequest(bufio.NewReaderSize(io.TeeReader(io.LimitReader(r, maxPeek), &buf), 4<<10))
	if err != nil {
		return "", buf.Bytes()
	}
	return hostOf(req.Host), buf.Bytes()
}

// hostOf is the name in a Host header, comparable.
func hostOf(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return canonical(host)
}

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// peekConn is a connection that can be read only.
type peekConn struct{ r io.Reader }

func (c peekConn) Read(p []byte) (int, error)     { return c.r.Read(p) }
func (peekConn) Write(p []byte) (int, error)      { return len(p), nil }
func (peekConn) Close() error                     { return nil }
func (peekConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (peekConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (peekConn) SetDeadline(time.Time) error      { return nil }
func (peekConn) SetReadDeadline(time.Time) error  { return nil }
func (peekConn) SetWriteDeadline(time.Time) error { return nil }

// seenConn is a connection of which something was read already.
type seenConn struct {
	net.Conn
	seen []byte
}

func (c *seenConn) Read(p []byte) (int, error) {
	if len(c.seen) > 0 {
		n := copy(p, c.seen)
		c.seen = c.seen[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
