package vmm_test

import (
	"context"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/agentsandbox"
	"github.com/aethervm/aether/vmm"
)

const (
	pageSize   = 4096
	touchedMiB = 256
	// mostTouched is how many pages a copy may write in the test. It is some 450 on a quiet host; on a busy one more time passes
	// for timers, and what the kernel does two seconds after the balloon's driver was loaded may come in a copy.
	mostTouched = 700
)

// What a copy writes until it has run its first program is bounded, and some of it can be given back when it is paused. The log has how many pages a copy has written, and how many faults the lab's KVM has served, after each step.
func TestTouchedByCopy(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	_, disk := guestFiles(t)
	parent, client := bootGuest(t, func(c *vmm.Config) {
		c.MemoryMiB, c.Cmdline = touchedMiB, agentsandbox.Cmdline(nil, agentproto.InitVsock)
	})
	identity := agentproto.Config{Hostname: "original", Now: time.Now(), Entropy: make([]byte, 32), Processes: 64, MemoryBytes: 128 << 20}
	if err := client.Configure(ctx, identity); err != nil {
		t.Fatal(err)
	}
	runTrue := func(c *agentproto.Client) {
		t.Helper()
		if _, err := run(ctx, c, nil, "true"); err != nil {
			t.Fatal(err)
		}
	}
	runTrue(client)
	bootID := func(c *agentproto.Client) string {
		t.Helper()
		id, err := run(ctx, c, nil, "cat", "/proc/sys/kernel/random/boot_id")
		if err != nil || len(id) != 37 {
			t.Fatalf("the boot ID %q, %v", id, err)
		}
		return id
	}
	own := bootID(client)
	snapshot := branch(ctx, t, parent, client)
	if after := bootID(client); after != own {
		t.Errorf("the original's boot ID was %q and is %q", own, after)
	}
	parent.Pause() // the faults are the copies'
	defer parent.Resume()
	steps := []struct {
		name string
		do   func(c *agentproto.Client)
	}{
		{"ping", func(c *agentproto.Client) {
			if err := c.Ping(ctx); err != nil {
				t.Fatal(err)
			}
		}},
		{"identity", func(c *agentproto.Client) {
			mine := identity
			mine.Hostname, mine.Now = "copy", time.Now()
			if err := c.ThawCopy(ctx, mine); err != nil {
				t.Fatal(err)
			}
		}},
		{"true", runTrue},
		{"true again", runTrue},
	}
	// A copy for each number of steps: a look at the pages of one would change what it touches next.
	for n := range steps {
		vm, err := vmm.Fork(snapshot, vmm.ForkConfig{Disks: []*os.File{disk}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = vm.Close() })
		c := clientOf(vm)
		c.Keep = true
		before := kvmFaults()
		if err := vm.Start(); err != nil {
			t.Fatal(err)
		}
		for _, step := range steps[:n+1] {
			step.do(c)
		}
		vm.Pause()
		faults := kvmFaults() - before
		written := ownPages(t, vm)
		bytes, err := vm.GiveBack()
		if err != nil {
			t.Fatal(err)
		}
		dropped := int(bytes / pageSize)
		t.Logf("%s: %d pages written, %d of them given back; %d faults", steps[n].name, written, dropped, faults)
		if written > mostTouched {
			t.Errorf("%s: more than %d pages", steps[n].name, mostTouched)
		}
		if left := ownPages(t, vm); dropped == 0 || left != written-dropped {
			t.Errorf("%d pages are left of %d when %d were given back", left, written, dropped)
		}
		vm.Resume()
		if n == 0 {
			steps[1].do(c) // its programs stand still
		}
		runTrue(c)
		if got, err := run(ctx, c, nil, "hostname"); err != nil || got != "copy\n" {
			t.Errorf("a guest that goes on is %q, %v", got, err)
		}
		if bootID(c) == own {
			t.Error("a copy has the original's boot ID")
		}
		if err := vm.Close(); err != nil {
			t.Error(err)
		}
	}
}

func ownPages(t *testing.T, vm *vmm.VM) (n int) {
	t.Helper()
	list := make([]byte, touchedMiB<<20/pageSize/8)
	if err := vm.Own(0, list); err != nil {
		t.Fatal(err)
	}
	for _, b := range list {
		n += bits.OnesCount8(b)
	}
	return n
}

// kvmFaults is how many faults of guests' memory KVM has served so far, of all machines of this host; 0 if it does not say.
func kvmFaults() (n int) {
	text, err := os.ReadFile(filepath.Join("/sys/kernel/debug/kvm", "pf_taken"))
	if err == nil {
		n, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	return n
}
