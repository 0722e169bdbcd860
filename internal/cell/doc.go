// Package cell runs one virtual machine in a process without ambient authority. A guest that breaks
// out of the virtual machine finds itself in a process of a user that owns nothing, in namespaces with
// no files, no network and no other process, behind a system call filter; all that it can use are the
// descriptors that it was given: the virtual machine's own, and a socket to its owner.
//
// The process executes a program that is nothing but a cell (cmd/aether-cell): [Main]. The owner starts a cell
// with [Start], opens connections to the guest with [Cell.Dial], and ends it with [Cell.Close]. A cell
// whose owner dies, however it does, dies with it. Several cells of one tenant may share a process, and its confinement: [Share].
//
// The owner trusts nothing that a cell says: see protocol.go for what is said.
//
// # What confines it
//
// In the order in which it is put on (as root; [Cell.Confinement] tells what was possible):
//
//   - a user that no other process has, root of a user namespace of its own that maps nobody else,
//     from its first instruction on; mount, PID, network, IPC, UTS and cgroup namespaces;
//   - a control group that bounds its memory and tasks, joined before it has any of the guest's memory;
//   - an empty, read-only root directory; resource limits;
//   - no capabilities, and no way to any; Landlock, with nothing allowed;
//   - a system call filter, which ends the process at the first call that it does not list.
//
// All this is before the process is given a file of its guest: kernel, disks, and the layers of a branch come over its
// socket when it has said that it is confined. There a process can wait for its guest ([Prepare]). What needs a name, the owner opens:
// the KVM device, the files, and the flows of the guest's network, which the owner holds to the rules.
//
// Rights belong to threads. Go can take them from all threads of a process only if it has made them
// all, so that a build with cgo (one with the race detector) gets no Landlock, no filter, and keeps its
// capabilities within its namespace.
package cell
