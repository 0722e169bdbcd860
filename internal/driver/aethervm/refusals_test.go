package aethervm

import (
	"fmt"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

func TestRefusals(t *testing.T) {
	var r refusals
	if log := r.log(); log.Refused == nil || len(log.Refused) != 0 || log.Omitted != 0 {
		t.Errorf("an empty record: %+v", log)
	}
	start := time.Now()
	at := func(second int) time.Time { return start.Add(time.Duration(second) * time.Second) }
	r.add(sandbox.RefusedFlow{Protocol: "tcp", Address: "192.0.2.1:80", Count: 1}, at(0))
	r.add(sandbox.RefusedFlow{Protocol: "dns", Name: "evil.example", Count: 2}, at(1))
	r.add(sandbox.RefusedFlow{Protocol: "tcp", Address: "192.0.2.1:80", Count: 5}, at(2))
	r.add(sandbox.RefusedFlow{Count: 7}, at(3))
	log := r.log()
	if len(log.Refused) != 2 || log.Omitted != 7 ||
		log.Refused[0] != (sandbox.RefusedFlow{Protocol: "dns", Name: "evil.example", Count: 2, First: at(1), Last: at(1)}) ||
		log.Refused[1] != (sandbox.RefusedFlow{Protocol: "tcp", Address: "192.0.2.1:80", Count: 6, First: at(0), Last: at(2)}) {
		t.Errorf("%+v", log)
	}
	// The oldest go, and are counted.
	const more = 1000
	for i := range more {
		r.add(sandbox.RefusedFlow{Protocol: "udp", Address: fmt.Sprintf("192.0.2.2:%d", i), Count: 1}, at(10+i))
	}
	log = r.log()
	if len(log.Refused) != maxRefusals || log.Omitted != 7+2+6+more-maxRefusals || log.Refused[maxRefusals-1].Last != at(10+more-1) {
		t.Errorf("%d entries, %d omitted", len(log.Refused), log.Omitted)
	}
}
