// Package boot turns a kernel file into the memory and the register values of a Linux guest that is
// about to run its first instruction: kernel formats, boot parameters, command line, initramfs, the
// processor's long-mode state and the ACPI tables that describe the machine. It knows nothing about
// KVM; [Load] writes guest memory and returns plain values.
//
// # Two ways to boot a bzImage
//
// A bzImage is a small program with the compressed kernel, an ELF file (vmlinux), inside. [Open]
// unpacks it on the host and boots the ELF file's 64-bit entry. That is the default: the work is
// done once for a file and not once for a boot, natively and not under a hypervisor, and the guest
// needs no memory for both forms at a time. [OpenSelfUnpacking] loads the program and lets the guest
// unpack itself, as firmware would. Only that way is the kernel's own place in memory random
// (KASLR), which is of little use where all forks of a template share it; and only that way boots a
// kernel with a compression that this package does not know.
//
// # Hostile files
//
// Kernels and initramfs archives are foreign bytes. Every size and offset in them is checked before
// it is used, what they unpack to is bounded, and a malformed file is an error that wraps
// [ErrFormat].
//
// References: https://docs.kernel.org/arch/x86/boot.html,
// https://docs.kernel.org/arch/x86/zero-page.html, https://uefi.org/specs/ACPI/6.5/.
package boot

import "errors"

// Kinds of error, for errors.Is.
var (
	// ErrFormat: a kernel file is malformed.
	ErrFormat = errors.New("boot: malformed kernel")
	// ErrUnsupported: a kernel file is well formed but not one that can be booted here.
	ErrUnsupported = errors.New("boot: unsupported kernel")
	// ErrNoRoom: the guest has too little memory for what is to be loaded.
	ErrNoRoom = errors.New("boot: not enough guest memory")
	// ErrConfig: the configuration is out of range.
	ErrConfig = errors.New("boot: invalid configuration")
)
