package vmm_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/agentsandbox"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/vmm"
)

// guestModules are those that the agent's guest uses. The driver of its sockets comes last: the agent
// serves when it is loaded.
var guestModules = []string{
	"virtio_mmio", "virtio_blk", "erofs", "overlay", "virtio_rng", "virtio_balloon", "virtio_net",
	"vmw_vsock_virtio_transport",
}

// cmdline of the guests: silent, and without what takes a kernel long and is of no use here.
const cmdline = "quiet loglevel=4 rdinit=/init random.trust_cpu=on cryptomgr.notests lsm=landlock audit=0 -- " + agentproto.InitVsock

const bootTimeout = 5 * time.Minute // the host of a test may be emulated, and busy

// guestFiles opens what guests boot from, or ends the test.
func guestFiles(t testing.TB) (*agentsandbox.Guest, *os.File) {
	t.Helper()
	reality, err := kvm.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !reality.Real() {
		testenv.Require(t, "REAL_KVM", reality.Reason)
	}
	img := testenv.Image(t)
	testenv.Agent(t)
	guest, err := agentsandbox.OpenGuest(t.Context(), "test", guestModules)
	if err != nil {
		testenv.Require(t, "KERNEL", err.Error())
	}
	t.Cleanup(func() { _ = guest.Close() })
	if err := guest.ShareKernel(); err != nil {
		t.Fatal(err)
	}
	disk, err := agentsandbox.RootDisk(t.Context(), "test", img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = disk.Close() })
	return guest, disk
}

// bootGuest starts a VM with the agent.
func bootGuest(t testing.TB, change func(*vmm.Config)) (*vmm.VM, *agentproto.Client) {
	t.Helper()
	guest, disk := guestFiles(t)
	cfg := vmm.Config{
		Kernel: guest.Image, Initramfs: guest.Initrd, Cmdline: cmdline, VCPUs: 1, MemoryMiB: 256,
		Disks:         []*os.File{disk},
		DeviceStopped: func(err error) { t.Errorf("device stopped: %v", err) },
	}
	if change != nil {
		change(&cfg)
	}
	vm, err := vmm.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console:\n%s", vm.Console())
		}
		if err := vm.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	return vm, &agentproto.Client{Dial: func(ctx context.Context) (net.Conn, error) { return vm.Dial(ctx, agentproto.Port) }}
}

func run(ctx context.Context, c *agentproto.Client, stdin []byte, args ...string) (string, error) {
	var out, errOut bytes.Buffer
	exit, err := c.Exec(ctx, agentproto.Exec{Args: args, Env: []string{"PATH=/usr/bin:/bin"}, Dir: "/"},
		bytes.NewReader(stdin), &out, &errOut)
	if err == nil && (exit.Code != 0 || errOut.Len() > 0) {
		err = fmt.Errorf("%q: %+v, %s", args, exit, errOut.Bytes())
	}
	return out.String(), err
}

func TestBoot(t *testing.T) {
	for _, vcpus := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d vCPUs", vcpus), func(t *testing.T) { testBoot(t, vcpus) })
	}
}

func testBoot(t *testing.T, vcpus int) {
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	vm, client := bootGuest(t, func(c *vmm.Config) { c.VCPUs = vcpus })
	if err := client.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"", []string{"true"}},
		{"42\n", []string{"python3", "-c", "print(6*7)"}},
		{fmt.Sprintln(vcpus), []string{"nproc"}},
	} {
		if got, err := run(ctx, client, nil, c.args...); err != nil || got != c.want {
			t.Fatalf("%q: %q, %v", c.args, got, err)
		}
	}
	bulk := make([]byte, 5<<20)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(bulk)
	if got, err := run(ctx, client, bulk, "cat"); err != nil || got != string(bulk) {
		t.Fatalf("%d of %d bytes came back: %v", len(got), len(bulk), err)
	}
	testPause(ctx, t, vm, client)
	powerOff(ctx, t, vm, client)
}

// testPause finds a guest that is paused silent, and the same one afterwards.
func testPause(ctx context.Context, t *testing.T, vm *vmm.VM, client *agentproto.Client) {
	t.Helper()
	vm.Pause()
	answered := make(chan error, 1)
	go func() { answered <- client.Ping(ctx) }()
	select {
	case err := <-answered:
		t.Errorf("a paused guest has answered: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	vm.Resume()
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
}

// powerOff has the guest end itself.
func powerOff(ctx context.Context, t *testing.T, vm *vmm.VM, client *agentproto.Client) {
	t.Helper()
	const script = "import ctypes; ctypes.CDLL(None).reboot(0x4321fedc)"
	if out, err := run(ctx, client, nil, "python3", "-c", script); err == nil {
		t.Errorf("the guest lives on: %q", out)
	}
	end, err := vm.Wait(ctx)
	if err != nil || end.Reason != vmm.PoweredOff {
		t.Errorf("ended with %v, %v", end, err)
	}
	if _, err := vm.Dial(ctx, agentproto.Port); !strings.Contains(fmt.Sprint(err), string(vmm.PoweredOff)) {
		t.Errorf("dial of an ended guest: %v", err)
	}
}

// What VMs take is given back.
func TestCloseFreesEverything(t *testing.T) {
	guestFiles(t)
	before, goroutines := openFiles(t), runtime.NumGoroutine()
	for range 3 {
		t.Run("", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
			defer cancel()
			vm, client := bootGuest(t, nil)
			if err := client.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			conn, err := vm.Dial(ctx, agentproto.Port)
			if err != nil {
				t.Fatal(err)
			}
			if err := vm.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("a connection has outlived its guest")
			}
		})
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d files are open, %d before", after, before)
	}
	for start := time.Now(); runtime.NumGoroutine() > goroutines; time.Sleep(time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), goroutines)
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
