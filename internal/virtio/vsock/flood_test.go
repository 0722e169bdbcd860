package vsock

import "testing"

// A guest that takes no packets, and opens and resets connections that the host accepts, is not kept a
// record of.
func TestResetConnectionsAreForgotten(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 0)
	l, err := d.Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint32(5 * maxConns) {
		p.send(header{srcPort: i, dstPort: 80, op: opRequest}, nil)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 { // the first one's answer stays in front of all others
			p.send(header{srcPort: i, dstPort: 80, op: opReset}, nil)
			_ = c.Close()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.ready) > 2*maxConns || len(d.conns) != 1 {
		t.Errorf("%d connections in line, %d in the table", len(d.ready), len(d.conns))
	}
}

// What is forgotten can speak again.
func TestForgottenConnectionIsHeard(t *testing.T) {
	d := newDevice(t)
	p := start(t, d, 16)
	conn, h := connect(t, d, p, 1)
	d.mu.Lock()
	conn.queued = true // it had something to say, and has not any more
	d.ready = append(d.ready, conn)
	d.forgetIdle()
	queued, n := conn.queued, len(d.ready)
	d.mu.Unlock()
	if queued || n != 0 {
		t.Errorf("queued %t, %d in line", queued, n)
	}
	p.reply(h, opCreditRequest, nil, nil)
	p.expect(opCreditUpdate)
}
