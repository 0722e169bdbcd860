package machine

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/initramfs"
	"github.com/aethervm/aether/internal/kernel"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/internal/virtio"
)

// testMain makes this test binary, which is static, also the guest's init: one test has a half on the
// host and a half in the guest.
func testMain(m *testing.M) {
	if os.Getpid() == 1 {
		guestMain()
	}
	os.Exit(m.Run())
}

// guestMain says what the guest sees and does what the command line asks for. When it returns from
// PID 1, the kernel panics.
func guestMain() {
	for _, m := range []struct{ kind, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			fmt.Println("guest error:", err)
			return
		}
	}
	// What the kernel says from now on would come in the middle of a line of this program.
	const consoleOff = 6 // SYSLOG_ACTION_CONSOLE_OFF of syslog(2): but for emergencies
	if _, err := unix.Klogctl(consoleOff, nil); err != nil {
		fmt.Println("guest error:", err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			return err.Error()
		}
		return string(text)
	}
	fmt.Printf("guest cpus=%d\n", strings.Count(read("/proc/cpuinfo"), "processor\t"))
	for line := range strings.Lines(read("/proc/iomem")) {
		if strings.Contains(line, "System RAM") {
			fmt.Printf("guest ram=%s\n", strings.TrimSpace(line))
		}
	}
	fmt.Printf("guest clock=%s\n", read("/sys/devices/system/clocksource/clocksource0/current_clocksource"))
	if strings.Contains(read("/proc/cmdline"), "test.panic") {
		os.Exit(3)
	}
	if strings.Contains(read("/proc/cmdline"), "test.tick") {
		for i := 0; ; i++ {
			fmt.Printf("guest tick=%d\n", i)
			time.Sleep(20 * time.Millisecond)
		}
	}
	if strings.Contains(read("/proc/cmdline"), "test.devices") {
		if err := useDevices(); err != nil {
			fmt.Println("guest error:", err)
		}
	}
	fmt.Println("guest done")
	if err := unix.IoctlSetInt(int(os.Stdout.Fd()), unix.TCSBRK, 1); err != nil { // tcdrain(3)
		fmt.Println("guest error:", err)
	}
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("guest error:", err)
	}
	time.Sleep(time.Hour)
}

// bootKernel is the newest kernel of this host's store.
func bootKernel(t *testing.T) kernel.Kernel {
	t.Helper()
	reality, err := kvm.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !reality.Real() {
		testenv.Require(t, "REAL_KVM", reality.Reason)
	}
	state, err := hostdir.State()
	if err != nil {
		t.Fatal(err)
	}
	k, err := kernel.Find(filepath.Join(state, "kernels"))
	if err != nil {
		testenv.Require(t, "KERNEL", err.Error())
	}
	return k
}

// bootLinux boots it with this program as init. Virtio's modules are in its initramfs.
func bootLinux(t *testing.T, vcpus int, ramMiB uint64, cmdline string, devices ...virtio.Device) *Machine {
	t.Helper()
	k := bootKernel(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	files := []initramfs.File{
		{Name: "init", Mode: 0o755, Source: self}, {Name: "proc/.keep"}, {Name: "sys/.keep"}, {Name: "dev/.keep"},
	}
	var list strings.Builder
	for _, m := range k.Load("virtio_mmio", "virtio_blk", "virtio_rng", "vmw_vsock_virtio_transport") {
		files = append(files, initramfs.File{Name: m.Name, Mode: 0o644, Source: k.ModulePath(m)})
		fmt.Fprintln(&list, m.Name)
	}
	files = append(files, initramfs.File{Name: "modules", Mode: 0o644, Data: []byte(list.String())})
	return bootFiles(t, vcpus, ramMiB, cmdline, files, devices...)
}

// bootFiles boots it with these files in its initramfs.
func bootFiles(t *testing.T, vcpus int, ramMiB uint64, cmdline string, files []initramfs.File, devices ...virtio.Device) *Machine {
	t.Helper()
	f, err := os.Open(bootKernel(t).Vmlinux())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := boot.Open(io.NewSectionReader(f, 0, info.Size()))
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := initramfs.Write(&archive, files); err != nil {
		t.Fatal(err)
	}
	parsed.Fit(ramMiB << 20)
	mem, err := guestmem.New(ramMiB<<20, guestmem.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mem.Close() })
	var places []boot.Device
	for i := range devices {
		places = append(places, boot.DeviceAt(i))
	}
	cpu, err := boot.Load(mem, boot.Config{
		Kernel: parsed, Initrd: bytes.NewReader(archive.Bytes()), VCPUs: vcpus, Devices: places,
		Cmdline: Cmdline + " " + cmdline,
	})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	m, err := New(Config{
		System: openSystem(t), Memory: mem, VCPUs: vcpus, Devices: devices,
		DeviceStopped: func(err error) { t.Errorf("device stopped: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		t.Logf("the guest lived for %v", time.Since(start))
	})
	if err := m.Start(cpu); err != nil {
		t.Fatal(err)
	}
	return m
}

// linuxTimeout is generous: the host of a test may be emulated.
const linuxTimeout = 3 * time.Minute

func waitLinux(t *testing.T, m *Machine) End {
	t.Helper()
	select {
	case <-m.Done():
	case <-time.After(linuxTimeout):
		m.Stop()
	}
	end, err := m.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return end
}

func TestLinux(t *testing.T) {
	const hole = guestmem.HoleEnd - guestmem.HoleStart
	for _, size := range []struct {
		vcpus  int
		ramMiB uint64
	}{{1, 128}, {2, 256}, {4, 256}, {8, 512}, {1, 5 << 10}} {
		t.Run(fmt.Sprintf("%d vCPUs %d MiB", size.vcpus, size.ramMiB), func(t *testing.T) {
			m := bootLinux(t, size.vcpus, size.ramMiB, "")
			end := waitLinux(t, m)
			wants := []string{fmt.Sprintf("guest cpus=%d\r\n", size.vcpus), "guest clock=kvm-clock", "guest done"}
			// The last byte of RAM, above the hole if it does not fit below.
			last := size.ramMiB<<20 - 1
			if last >= guestmem.HoleStart {
				last += hole
			}
			wants = append(wants, fmt.Sprintf("-%08x : System RAM\r\n", last))
			for _, want := range wants {
				if !strings.Contains(string(end.Console), want) {
					t.Errorf("the guest did not print %q", want)
				}
			}
			if end.Reason != PoweredOff {
				t.Errorf("ended with %v", end)
			}
			if t.Failed() || testing.Verbose() {
				t.Logf("console:\n%s", end.Console)
			}
		})
	}
}

func TestLinuxPanics(t *testing.T) {
	m := bootLinux(t, 1, 128, "quiet test.panic")
	end := waitLinux(t, m)
	if end.Reason != Panicked || !strings.HasPrefix(end.Detail, "Attempted to kill init!") {
		t.Errorf("ended with %v; console:\n%s", end, end.Console)
	}
}

// A paused guest says nothing, and goes on afterwards.
func TestLinuxPause(t *testing.T) {
	m := bootLinux(t, 2, 256, "quiet test.tick")
	waitTick := func(text string) {
		t.Helper()
		for start := time.Now(); !bytes.Contains(m.Console(), []byte(text)); time.Sleep(5 * time.Millisecond) {
			if time.Since(start) > linuxTimeout {
				t.Fatalf("no %q; console:\n%s", text, m.Console())
			}
		}
	}
	waitTick("tick=3\r\n")
	m.Pause()
	before := m.Console()
	time.Sleep(300 * time.Millisecond)
	if after := m.Console(); !bytes.Equal(before, after) {
		t.Errorf("a paused guest printed %q", after[len(before):])
	}
	m.Resume()
	waitTick("tick=20\r\n")
	m.Stop()
	if end := waitLinux(t, m); end.Reason != Stopped {
		t.Errorf("ended with %v", end)
	}
}
