package main

import (
	"github.com/spf13/pflag"

	"github.com/aethervm/aether/internal/driver/aethervm"
)

// copiesPerCell is how many copies of AetherVM's that are made at once may share a process; 0 if nothing was said, which is one.
type copiesPerCell int

// add adds the flag. which says of which copies.
func (n *copiesPerCell) add(flags *pflag.FlagSet, which string) {
	flags.IntVar((*int)(n), "copies-per-cell", 0,
		which+": up to `N` that are made at once share a process. They take less memory,\nand what breaks out of one, or ends its process, has the others (default 1)")
}

func (n copiesPerCell) check() error {
	if n < 0 || n > aethervm.MaxCopiesPerCell {
		return usageError("", "--copies-per-cell %d: 1 to %d are possible", n, aethervm.MaxCopiesPerCell)
	}
	return nil
}
