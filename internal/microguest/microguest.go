// Package microguest makes guests of a few instructions, for tests and benchmarks. A KVM whose ring 0 is emulated runs them
// too.
package microguest

import (
	"debug/elf"
	"slices"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/boot/boottest"
)

// Entry is where the code of a Kernel is in the guest's memory, and begins.
const Entry = 0x1000000

// Kernel is code as an ELF file that the loader takes for a kernel.
func Kernel(code ...[]byte) []byte {
	return boottest.ELF(Entry, boottest.Part{Type: elf.PT_LOAD, GPA: Entry, Data: slices.Concat(code...)})
}

// Out writes a byte to a port. It changes AL and DX.
func Out(port uint16, v byte) []byte {
	return []byte{0x66, 0xba, byte(port), byte(port >> 8), 0xb0, v, 0xee} // mov dx, port; mov al, v; out dx, al
}

// Say writes a text to the serial port. It changes AL and DX.
func Say(text string) []byte {
	var code []byte
	for _, b := range []byte(text) {
		code = append(code, Out(boot.SerialPort, b)...)
	}
	return code
}

// PowerOff ends the machine.
func PowerOff() []byte { return Out(boot.SleepControlPort, 5<<2|boot.SleepEnable) }

// Reset has the machine start anew, which ends it here.
func Reset() []byte { return Out(boot.ResetPort, 1) }

// Spin goes on for ever, and does nothing.
func Spin() []byte { return []byte{0xf3, 0x90, 0xeb, 0xfc} } // pause; jmp back
