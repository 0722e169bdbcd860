// Package host finds out what this machine is: the facts that belong beside every measurement, and
// the figures of /proc that the judge reads while it measures.
package host
