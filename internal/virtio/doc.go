// Package virtio is what the devices of a virtual machine and the transport have in common: the
// contract between them, and the numbers of the virtio specification (version 1.2).
//
// A device (packages blk, rng, vsock, balloon, net) knows requests; a transport (package mmio) knows
// registers, negotiation, reset, interrupts and pausing; package queue knows the rings. None of them
// knows KVM: guest memory and an interrupt line are handed in, so that each can be tested and fuzzed
// by a driver in the same process (package virtiotest).
//
// # Trust
//
// Everything that comes from the guest is hostile. What is malformed in rings or requests is an error
// that wraps [queue.ErrMalformed]; the transport then stops the device, sets DEVICE_NEEDS_RESET and
// tells its owner. Nothing panics, and the work and memory that one notification can cost are bounded.
package virtio
