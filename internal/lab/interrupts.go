package lab

import (
	"bytes"
	"os"
)

// QEMU's emulation of VMRUN (helper_vmrun, as of 10.0) notes the vector of an interrupt that the hypervisor
// injects as a pending exception, delivers the interrupt, and leaves the note. If its execution loop ends
// before the guest's next exit, which an icount budget or another thread's request brings about, the note is
// taken for an exception and the guest gets the interrupt a second time, even with interrupts disabled: a
// Linux guest then waits for a lock that its interrupted self holds, or dies of a triple fault.
//
// The remedy is not to take the note. This is the place in the binary that Debian's archive has: a store of the
// vector (esi) to exception_index, before those of 0 to exception_is_int and of -1 to exception_next_eip.
var (
	vmrunInjection = []byte{
		0x89, 0xb3, 0x10, 0xd7, 0xff, 0xff,
		0xc7, 0x83, 0xe4, 0x33, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
		0x48, 0xc7, 0x83, 0xe8, 0x33, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff,
	}
	noOperation = []byte{0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00} // as long as the store
)

// mendInterrupts removes the store from a QEMU binary. known is false, and nothing is changed, if the binary is
// not the one that has it in just one place.
func mendInterrupts(binary string) (known bool, err error) {
	content, err := os.ReadFile(binary)
	if err != nil {
		return false, err
	}
	at := bytes.Index(content, vmrunInjection)
	if at < 0 || bytes.Contains(content[at+1:], vmrunInjection) {
		return false, nil
	}
	f, err := os.OpenFile(binary, os.O_WRONLY, 0)
	if err != nil {
		return false, err
	}
	if _, err = f.WriteAt(noOperation, int64(at)); err != nil {
		_ = f.Close()
		return false, err
	}
	return true, f.Close()
}
