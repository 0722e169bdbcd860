package sandbox_test

import (
	"errors"
	"fmt"

	"github.com/aethervm/aether/sandbox"
)

func ExampleSpec_WithDefaults() {
	spec, err := sandbox.Spec{Image: sandbox.Image{Rootfs: "/var/lib/aether/images/x/rootfs"}}.WithDefaults()
	fmt.Println(spec.VCPUs, spec.MemoryMiB, spec.Network, err)

	_, err = sandbox.Spec{VCPUs: -1, Image: spec.Image}.WithDefaults()
	fmt.Println(errors.Is(err, sandbox.ErrInvalid))
	fmt.Println(err)
	// Output:
	// 1 256 none <nil>
	// true
	// check: invalid argument: vcpus is -1 (it must be 1 to 64)
}

func ExampleExit_String() {
	fmt.Println(sandbox.Exit{Code: 2}, sandbox.Exit{Code: -1, Signal: 9}, sandbox.Exit{Code: -1, Signal: 9, TimedOut: true})
	// Output: exit 2 signal 9 timed out
}
