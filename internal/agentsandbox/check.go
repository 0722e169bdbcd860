package agentsandbox

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

// Check fills in a spec and refuses what no virtual machine on this host can do.
func Check(op, system string, spec sandbox.Spec) (sandbox.Spec, error) {
	spec, err := spec.WithDefaults()
	if err != nil {
		return spec, err
	}
	if info, err := os.Stat(spec.Image.Rootfs); err != nil || !info.IsDir() {
		return spec, &sandbox.Error{Op: op, System: system, Err: sandbox.ErrInvalid,
			Detail: fmt.Sprintf("image.rootfs %s is no directory", spec.Image.Rootfs),
			Remedy: "build the image again with `aether image build`"}
	}
	var host unix.Sysinfo_t
	if err := unix.Sysinfo(&host); err != nil {
		return spec, Typed(op, system, "", fmt.Errorf("read the host's memory: %w", err))
	}
	if total := host.Totalram * uint64(host.Unit) >> 20; uint64(spec.MemoryMiB) > total {
		return spec, &sandbox.Error{Op: op, System: system, Err: sandbox.ErrNoSpace,
			Detail: fmt.Sprintf("a guest of %d MiB on a host of %d MiB", spec.MemoryMiB, total), Remedy: "ask for less memory"}
	}
	return spec, nil
}
