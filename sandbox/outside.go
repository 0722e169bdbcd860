package sandbox

import (
	"context"
	"net"
)

// Outside opens the flows of one sandbox in its system's place, and may change what goes over them. Its methods may
// be called concurrently.
type Outside interface {
	// Dial opens a flow. network is "tcp" or "udp", the address numeric; the system has found that the rules of the
	// sandbox allow it. The connection is a socket: a *net.TCPConn, *net.UDPConn or *net.UnixConn.
	Dial(ctx context.Context, network, address string) (net.Conn, error)
	// Copy makes that of a copy of the sandbox, which is closed on its own.
	Copy() Outside
	// Close ends all flows and returns when that is done. It is idempotent.
	Close() error
}

// refuseOutside is RefuseEgressRules for Spec.Outside.
func (s Spec) refuseOutside(op, system string) error {
	if s.Outside == nil {
		return nil
	}
	return &Error{Op: op, System: system, Err: ErrUnsupported,
		Detail: "its flows leave the host by themselves, so that nothing can be added to them, as secrets are",
		Remedy: "use a system whose network ends in aether (aethervm), or leave the secrets out"}
}
