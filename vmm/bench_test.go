package vmm_test

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/vmm"
)

// BenchmarkBoot boots guests up to the end of the first program that they run, and reports where the
// time goes: what the host does before the guest starts, the guest's way to its agent's first answer,
// a program, and the end.
func BenchmarkBoot(b *testing.B) {
	guest, disk := guestFiles(b)
	var parts [4]time.Duration
	for b.Loop() {
		ctx, cancel := context.WithTimeout(b.Context(), bootTimeout)
		start := time.Now()
		lap := func(i int) {
			now := time.Now()
			parts[i] += now.Sub(start)
			start = now
		}
		vm, err := vmm.New(vmm.Config{
			Kernel: guest.Image, Initramfs: guest.Initrd, Cmdline: cmdline, VCPUs: 1, MemoryMiB: 256,
			Disks: []*os.File{disk},
		})
		if err != nil {
			b.Fatal(err)
		}
		lap(0)
		if err := vm.Start(); err != nil {
			b.Fatal(err)
		}
		client := &agentproto.Client{Dial: func(ctx context.Context) (net.Conn, error) { return vm.Dial(ctx, agentproto.Port) }}
		if err := client.Ping(ctx); err != nil {
			b.Fatalf("%v; console:\n%s", err, vm.Console())
		}
		lap(1)
		if _, err := run(ctx, client, nil, "true"); err != nil {
			b.Fatal(err)
		}
		lap(2)
		if os.Getenv("DMESG") != "" {
			out, err := run(ctx, client, nil, "dmesg")
			b.Logf("%s %v", out, err)
		}
		start = time.Now()
		if err := vm.Close(); err != nil {
			b.Fatal(err)
		}
		lap(3)
		cancel()
	}
	for i, name := range []string{"new-ms", "ready-ms", "exec-ms", "close-ms"} {
		b.ReportMetric(float64(parts[i])/float64(time.Millisecond)/float64(b.N), name)
	}
}
