// Command init is the init program of the labs of this package's tests.
package main

import (
	"fmt"
	"os"

	"github.com/aethervm/aether/internal/lab/guest"
)

func main() {
	fmt.Fprintln(os.Stderr, guest.Main())
	os.Exit(1)
}
