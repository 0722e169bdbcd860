package vmm_test

import (
	"errors"
	"fmt"
	"os"

	"github.com/aethervm/aether/vmm"
)

// A Config that describes no VM is refused before anything is made of it.
func ExampleNew() {
	kernel, err := os.Open(os.DevNull)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer kernel.Close()
	_, err = vmm.New(vmm.Config{Kernel: kernel, VCPUs: 99, MemoryMiB: 256})
	fmt.Println(err)
	fmt.Println(errors.Is(err, vmm.ErrConfig))
	// Output:
	// vmm: invalid configuration: 99 vCPUs; 1 to 8 are possible
	// true
}
