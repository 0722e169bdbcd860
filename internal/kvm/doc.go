// Package kvm is the only user of /dev/kvm: it turns the kernel's ioctls into Go types and adds no
// policy of its own.
//
// A [System] is the open device, a [VM] an address space, a [VCPU] a processor in it. Each owns its
// file descriptor and is freed by its Close, also when a call on it is in progress in another
// goroutine. Nothing here knows about devices, boot protocols or snapshots; a run loop above this
// package reads the exits and decides.
//
// Numbers and layouts of the kernel's interface are in zabi_linux_amd64.go, which the program in
// genabi makes from the kernel's own headers (Debian: gcc and linux-libc-dev). The interface is
// frozen, so every version of the headers gives the same file.
//
// The interface: https://docs.kernel.org/virt/kvm/api.html
package kvm

//go:generate go run ./genabi
