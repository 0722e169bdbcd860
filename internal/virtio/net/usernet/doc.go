// Package usernet is a network in user space for one guest: a gateway that ends the guest's TCP and UDP
// flows and opens, with the rights of this process, flows of its own to where they go. The host needs no
// device, address, route or firewall rule for it.
//
// # Policy
//
// Nothing is allowed that no [Rule] allows. Rules name addresses or names, and ports. The internet and
// special networks (this host, private networks, link-local ones with their metadata services) are
// different things: a rule for 0.0.0.0/0 does not cover a special network, only a rule for that network
// or a part of it does.
//
// Names are resolved by the gateway, the guest's only name server: it answers for names that a rule
// allows, and remembers the addresses, so that the guest can connect to them for a while. Two names that
// share an address cannot be told apart. An address in a special network is left out of the answers,
// whatever the name, so that nobody can point a name that is allowed at the host.
//
// What is denied fails at once: a refused connection, an unreachable port, a name that does not exist.
package usernet
