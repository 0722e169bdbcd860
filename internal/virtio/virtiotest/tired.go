package virtiotest

import (
	"sync/atomic"

	"github.com/aethervm/aether/internal/virtio"
)

// maxRounds is far more than a queue of honest requests takes.
const maxRounds = 10000

// Tired is a device that after many rounds says that there is no more to do. A driver can lay its rings
// over each other so that what the device writes is what it reads next, for ever: a vCPU that notifies
// such a queue spends its own time on it, until it is paused, but a fuzz target is to end.
func Tired(d virtio.Device) virtio.Device { return &tired{Device: d} }

type tired struct {
	virtio.Device
	rounds atomic.Int64
}

// Process implements virtio.Device.
func (t *tired) Process(queue int) (more bool, err error) {
	more, err = t.Device.Process(queue)
	return more && t.rounds.Add(1) < maxRounds, err
}
