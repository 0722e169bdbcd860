// Command aether-cell is the process that a virtual machine runs in: package cell, and nothing else. It
// is embedded into aether, which starts it; it is of no use by itself.
package main

import (
	"fmt"
	"os"

	"github.com/aethervm/aether/internal/cell"
)

func main() {
	cell.Main()
	fmt.Fprintln(os.Stderr, "aether-cell: this is a part of aether, which starts it")
	os.Exit(2)
}
