// Package treediff compares what two sandboxes have written, by what an agent in each of them says of it.
//
// Neither agent is trusted. What they list is held to an order, to paths that can be, and to bounds, before anything is kept
// of it; each is asked about its own files only, so that one that lies does so about itself.
package treediff
