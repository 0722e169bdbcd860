// Package rest serves the operations of internal/runtime over HTTP, under /v1, with an OpenAPI 3.1 description that is
// generated from the same code. It translates, and decides nothing: what is allowed, counted and kept is the
// runtime's. Another API of the kind, for clients of another system, is another such package beside it.
//
// A request is a tenant's, by its token. The header Aether-Session names one of the tenant's sessions. Without it, what
// is made belongs to the session "default", and what is named by ID is looked for in all sessions of the tenant.
package rest
