#include "textflag.h"

// An aligned load of x86 is single and ordered after all earlier loads. The call keeps the compiler
// from moving other accesses across it.

// func load16(p unsafe.Pointer) uint16
TEXT ·load16(SB), NOSPLIT, $0-10
	MOVQ p+0(FP), AX
	MOVWLZX (AX), AX
	MOVW AX, ret+8(FP)
	RET

// XCHG with memory is locked: a store with a full barrier, as those of sync/atomic.

// func store16(p unsafe.Pointer, v uint16)
TEXT ·store16(SB), NOSPLIT, $0-10
	MOVQ p+0(FP), BX
	MOVW v+8(FP), AX
	XCHGW AX, (BX)
	RET
