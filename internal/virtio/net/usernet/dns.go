package usernet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	dnsPort = 53
	// maxAnswers keeps an answer within the 512 bytes of plain DNS.
	maxAnswers = 16
	// answerTTL, in seconds, is far below nameLifetime, so that a guest asks again in time.
	answerTTL      = 60
	resolveTimeout = 10 * time.Second
)

// serveDNS answers the queries of one flow.
func (n *Network) serveDNS(conn net.Conn) {
	buf := make([]byte, n.cfg.MTU)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(udpIdle))
		size, err := conn.Read(buf)
		if err != nil {
			return
		}
		if reply := n.answer(buf[:size]); reply != nil {
			if _, err := conn.Write(reply); err != nil {
				return
			}
		}
	}
}

// answer returns the reply to a query, or nil if it is none.
func (n *Network) answer(query []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil
	}
	reply := dnsmessage.Message{Header: dnsmessage.Header{
		ID: h.ID, Response: true, OpCode: h.OpCode,
		RecursionDesired: h.RecursionDesired, RecursionAvailable: true,
	}}
	q, err := p.Question()
	switch {
	case err != nil || h.OpCode != 0:
		reply.RCode = dnsmessage.RCodeFormatError
	case q.Class != dnsmessage.ClassINET:
		reply.Questions = []dnsmessage.Question{q}
		reply.RCode = dnsmessage.RCodeNotImplemented
	default:
		reply.Questions = []dnsmessage.Question{q}
		reply.RCode, reply.Answers = n.lookUp(q)
	}
	b, err := reply.Pack()
	if err != nil {
		return nil
	}
	return b
}

// lookUp answers a question. A name that is not allowed does not exist: other refusals make resolvers
// try again and again.
func (n *Network) lookUp(q dnsmessage.Question) (dnsmessage.RCode, []dnsmessage.Resource) {
	name := q.Name.String()
	if !n.policy.allowsName(name) {
		n.reports.add(Flow{Protocol: "dns", To: netip.AddrPortFrom(n.cfg.Gateway.Addr(), dnsPort), Name: canonical(name)})
		return dnsmessage.RCodeNameError, nil
	}
	if q.Type != dnsmessage.TypeA {
		return dnsmessage.RCodeSuccess, nil // the network has IPv4 only
	}
	ctx, cancel := context.WithTimeout(n.ctx, resolveTimeout)
	defer cancel()
	addrs, err := n.cfg.Resolve(ctx, canonical(name)+".")
	if err != nil {
		var dnsErr *net.DNSError
		if errors.As(err, &dnsErr) && dnsErr.IsNotFound {
			return dnsmessage.RCodeNameError, nil
		}
		return dnsmessage.RCodeServerFailure, nil
	}
	var answers []dnsmessage.Resource
	for _, a := range n.policy.resolved(name, addrs[:min(len(addrs), maxAnswers)]) {
		answers = append(answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: answerTTL},
			Body:   &dnsmessage.AResource{A: a.As4()},
		})
	}
	return dnsmessage.RCodeSuccess, answers
}
