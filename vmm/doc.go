// Package vmm is AetherVM: a KVM hypervisor for microVMs that run stock Linux kernels. A VM has
// processors, memory, read-only disks, a serial console, sockets to its host, a source of random
// numbers, a balloon that gives free memory back to the host and, if asked for, a network card behind
// a policy that denies what it does not allow.
//
// The host talks to programs in the guest over its sockets: [VM.Dial]. A guest is ready when it has
// loaded its socket driver: Dial waits for that, and for nothing else. A guest whose agent listens
// before it loads the driver is thus never asked in vain, and never asked twice.
//
// Nothing in this package trusts the guest. What it writes to its devices is checked; a device whose
// driver misbehaves is stopped, and the VM goes on without it.
package vmm
