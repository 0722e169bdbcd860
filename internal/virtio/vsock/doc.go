// Package vsock is the virtio socket device (virtio 1.2, section 5.10) with its host side in this
// process: connections are net.Conns of Go, not sockets of the host's kernel. It carries the channel
// between the host and the agent in the guest.
//
// # Flow control and bounds
//
// Each side tells the other how much it can buffer for a connection and how much it has passed on
// (credit), so the queues never wait for an application. The host's side copies what arrives into a
// buffer of at most [BufferSize] for each connection, and a guest that sends more loses the connection.
// Where [Conn.Deliver] has said so, the vCPU's thread gives away what arrives, in place, as long as nothing
// is in the buffer, and a goroutine has to be woken for the rest only.
// It buffers nothing that leaves: Write lends its bytes to the device until they are in the guest.
// Connections that can send take turns, one packet each. Replies that belong to no connection (resets)
// wait in a bounded list; while it is full, packets of the guest are not taken.
//
// # Snapshots
//
// Connections are not part of a snapshot. A restored device first tells the guest that its
// connections are gone (transport reset). Until the guest has handled that, nothing else is sent: Linux
// handles the event and incoming packets on different workqueues and, when it gets to the event, resets
// every connection it has, new ones included. The sign is that the guest gives a new buffer for events.
// Ports of the host are not used again either, as long as a packet of before could still be on its way.
package vsock
