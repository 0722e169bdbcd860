package vmm_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/smaps"
	"github.com/aethervm/aether/vmm"
)

// smallest is how many MiB of RAM a guest with the agent needs: Debian's kernel takes 50 while it boots, and unpacks
// the initramfs beside itself. A kernel alone boots in vmm.MinMemoryMiB.
const smallest = 80

// The smallest guest boots to its agent and runs Python.
func TestSmallest(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	_, client := bootGuest(t, func(c *vmm.Config) { c.MemoryMiB = smallest })
	if got, err := run(ctx, client, nil, "python3", "-c", "print(6*7)"); err != nil || got != "42\n" {
		t.Fatalf("%q, %v", got, err)
	}
	free, err := run(ctx, client, nil, "grep", "-E", "MemTotal|MemAvailable", "/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("of %d MiB:\n%s", smallest, free)
}

// Memory that a program has used and given back goes back to the host, with nobody asking for it.
func TestFreeMemoryGoesBack(t *testing.T) {
	const ram, used = 512, 200 // MiB
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	_, client := bootGuest(t, func(c *vmm.Config) { c.MemoryMiB = ram })
	resident := func() int64 {
		t.Helper()
		pss, known, err := smaps.GuestPSS(os.Getpid(), ram<<20, 1)
		if err != nil || !known {
			t.Fatalf("resident memory of the guest: known %v, %v", known, err)
		}
		return pss >> 20
	}
	// The driver of the balloon is loaded when the agent runs already.
	if _, err := run(ctx, client, nil, "sh", "-c", "until [ -e /sys/bus/virtio/drivers/virtio_balloon ]; do sleep 0.1; done"); err != nil {
		t.Fatal(err)
	}
	before := resident()
	// It is touched, reported on, and freed when the program ends.
	script := fmt.Sprintf("b = bytearray(%d << 20)\nfor i in range(0, len(b), 4096): b[i] = 1\nprint(len(b) >> 20)", used)
	if got, err := run(ctx, client, nil, "python3", "-c", script); err != nil || got != fmt.Sprintln(used) {
		t.Fatalf("%q, %v", got, err)
	}
	full := resident()
	if full < before+used*3/4 {
		t.Fatalf("%d MiB are resident, %d before a program has used %d", full, before, used)
	}
	// Linux reports pages that have been free for two seconds.
	start := time.Now()
	for ; resident() > before+used/4; time.Sleep(200 * time.Millisecond) {
		if ctx.Err() != nil || time.Since(start) > time.Minute {
			t.Fatalf("%d MiB are still resident, of %d with the program; %d before", resident(), full, before)
		}
	}
	t.Logf("resident MiB: %d before, %d at the end of a program that used %d, %d after %v",
		before, full, used, resident(), time.Since(start).Round(100*time.Millisecond))
}
