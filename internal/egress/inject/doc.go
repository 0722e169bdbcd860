// Package inject gives the requests of a sandbox credentials that the sandbox never sees.
//
// A [Rule] is about one host name. An [Injector] opens the flows of one sandbox in place of a dialer. It looks at
// how a flow to a port of HTTPS begins: if the client says the name of a rule (SNI), the injector answers in that
// host's place, with a certificate of an authority that only this sandbox trusts, and that can certify no other
// names. It takes the requests of HTTP/1.1 apart, refuses those that are for another host, sets the header of
// the rule, and sends them on over TLS of its own to the address that the sandbox had chosen, whose certificate
// must be the host's by this machine's roots: whoever redirected the flow, by DNS or otherwise, gets nothing. Every
// other flow passes through as it is.
//
// A rule that says so does the same for plain HTTP. There nobody proves who he is, so that the injector
// looks up the name itself and sends to what that gives, if the sandbox may reach it, never to the address that the
// sandbox has chosen.
//
// What keeps the credential out of the sandbox:
//
//   - It is asked for when a request is sent on, is in no configuration, and is in no error, event or log.
//   - A redirection is the sandbox's to follow: what goes to another host has no credential.
//   - TRACE, which echoes requests, and CONNECT are refused.
//   - In the header, trailer and body of an answer, and in the headers of those that come before it (1xx), the
//     credential as it was sent is overwritten with asterisks. Answers are asked for without compression for that. A
//     host that sends it back in another form, or in pieces, gives it away, and so does one that sends it back after a
//     101, in a WebSocket for one, where nothing is held back to be looked through: a rule trusts its host as far as it
//     goes.
//
// Which secrets went to which host, with what answer, and which requests were refused, is counted: CredentialLog.
//
// A copy of the sandbox has the rules with Fork only, and the same authority, which its programs trust already.
package inject
