// Package machine is a running virtual machine: memory, processors, interrupt controllers, a serial
// console, virtio devices and the means to stop it. It runs what package boot has put into memory, on
// the machine that boot's tables describe.
//
// # Threads
//
// Each vCPU has a goroutine, locked to its thread for as long as the machine lives. Devices have
// none of the machine's: a guest's access to a register is served on the thread of the vCPU that makes
// it, and so is the queue that it notifies. A guest that keeps a device busy thereby spends its own
// time, and pays for it in the control group of its own threads. A goroutine that an ioeventfd wakes
// takes longer to answer than the exit that it saves. Only where the host's side of a device meets a
// queue that the guest keeps filling does a goroutine take over, so that a caller with a deadline is not
// held up.
//
// # Interrupts
//
// The local APICs are the kernel's, the IOAPIC is in this package (split irqchip): the kernel's own
// would bring a PIT and a PIC, which cost more to make and to free than the rest of the VM. The IOAPIC
// translates an interrupt line into a message and has the kernel deliver it: one system call, as
// writing to an irqfd would be, but without a descriptor and a route for each line.
//
// # How it ends
//
// The guest powers off, reboots (which ends it too), panics, or does what no processor can go on from
// (triple fault); or [Machine.Stop] ends it. [Machine.Wait] tells which, with the last lines of the
// console.
package machine
