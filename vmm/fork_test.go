package vmm

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/machine"
)

// A host that has run out of something does not make a snapshot invalid, and what it lacks can be told from the error.
func TestShortageIsNoInvalidSnapshot(t *testing.T) {
	for _, c := range []struct {
		cause   error
		invalid bool
	}{
		{unix.ENOMEM, false}, {unix.EMFILE, false}, {unix.ENFILE, false}, {unix.ENOSPC, false}, {unix.EAGAIN, false}, {unix.ENOBUFS, false},
		{unix.EINVAL, true}, {unix.E2BIG, true}, {machine.ErrState, true},
	} {
		err := unfit(fmt.Errorf("restore a machine: %w", os.NewSyscallError("ioctl", c.cause)))
		if errors.Is(err, ErrSnapshot) != c.invalid || !errors.Is(err, c.cause) || strings.Contains(err.Error(), "snapshot") != c.invalid {
			t.Errorf("%v: %v", c.cause, err)
		}
	}
}
