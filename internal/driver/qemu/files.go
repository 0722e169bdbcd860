package qemu

import (
	"context"

	"github.com/aethervm/aether/internal/agentsandbox"
	"github.com/aethervm/aether/internal/tsc"
)

// guestModules are the kernel modules that a guest needs, whichever of them its kernel has as
// modules.
var guestModules = []string{"virtio_mmio", "virtio_blk", "virtio_console", "erofs", "overlay"}

// guestFiles are what every guest of a driver boots from.
type guestFiles struct {
	*agentsandbox.Guest
	tscKHz int // of the host's time-stamp counter
}

func openGuestFiles(ctx context.Context) (*guestFiles, error) {
	g, err := agentsandbox.OpenGuest(ctx, System, guestModules)
	if err != nil {
		return nil, err
	}
	return &guestFiles{Guest: g, tscKHz: tsc.KHz()}, nil
}
