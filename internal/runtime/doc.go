// Package runtime is the one layer of operations beneath every surface that an agent drives
// sandboxes through: MCP, REST, the command line. A surface translates; what is allowed, counted,
// kept and reaped is decided here, over any driver of package sandbox.
//
// A [Runtime] owns a state directory, the drivers and an image store. A [Tenant] is whoever a token
// stands for. A [Session], of one tenant, owns sandboxes, processes, outputs and budgets; its methods
// are the operations. What belongs to somebody else is not found, in the same words as what does
// not exist.
//
// All methods may be called concurrently. Every one that may take long takes a context, and ends what
// it does when that ends. Every error of a method is an [*Error]: a code, a cause, a remedy, and no
// path of the host.
//
// Time is that of package time, so tests give the runtime a clock of their own with testing/synctest.
package runtime
