package lab

import "testing"

func TestPositions(t *testing.T) {
	const registers = `CPU#0
RAX=0000000000000000 RBX=ffffffff82a1a940 RCX=0000000000000000 RDX=4000000000000000
RIP=ffffffff81a17a0b RFL=00000202 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1
ES =0000 0000000000000000 ffffffff 00c00000
CPU#1
RIP=00007f3eb52e2d90 RFL=00000206 [-----P-] CPL=3 II=0 A20=1 SMM=0 HLT=0
`
	const want = "CPU 0 at ffffffff81a17a0b, flags 00000202, ring 0, halted, CPU 1 at 00007f3eb52e2d90, flags 00000206, ring 3"
	if got := positions(registers); got != want {
		t.Errorf("%s", got)
	}
	if got := positions("nothing of the kind"); got != "unknown" {
		t.Errorf("%s", got)
	}
}
