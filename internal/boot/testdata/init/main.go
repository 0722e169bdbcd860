// Command init is the first process of the guest in the QEMU test: it prints what the kernel has made
// of the tables that it was given, and powers off.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		say("error", err.Error())
	}
	say("done", "")
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		say("error", err.Error())
	}
	time.Sleep(time.Hour)
}

func say(key, value string) { fmt.Printf("guest %s=%s\n", key, value) }

func run() error {
	for _, m := range []struct{ dir, kind string }{{"/proc", "proc"}, {"/sys", "sysfs"}, {"/dev", "devtmpfs"}} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	list, err := os.ReadFile("/modules")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(list)) {
		data, err := os.ReadFile("/" + name)
		if err != nil {
			return err
		}
		if err := unix.InitModule(data, ""); err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	text := func(path string) string {
		data, err := os.ReadFile(path)
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(data))
	}
	say("cmdline", text("/proc/cmdline"))
	say("cpus", fmt.Sprint(strings.Count(text("/proc/cpuinfo"), "processor\t")))
	say("memory", strings.Fields(text("/proc/meminfo"))[1])
	for bus, attr := range map[string]string{"acpi": "hid", "virtio": "device", "pnp": "id"} {
		entries, err := os.ReadDir("/sys/bus/" + bus + "/devices")
		if err != nil {
			return err
		}
		for _, e := range entries {
			dir := "/sys/bus/" + bus + "/devices/" + e.Name()
			driver, _ := os.Readlink(dir + "/driver")
			// An ACPI device is driven through its own bus or through the platform's.
			physical, _ := os.Readlink(dir + "/physical_node/driver")
			say(bus, fmt.Sprintf("%s driver=%s physical=%s", text(filepath.Join(dir, attr)), filepath.Base(driver), filepath.Base(physical)))
		}
	}
	// Random bytes come from the virtio device by way of its queue and its interrupt.
	rng, err := os.Open("/dev/hwrng")
	if err != nil {
		return err
	}
	var b [64]byte
	n, err := rng.Read(b[:])
	say("hwrng", fmt.Sprintf("%d %v", n, err))
	for line := range strings.Lines(text("/proc/interrupts")) {
		if strings.Contains(line, "IO-APIC") {
			say("interrupt", strings.Join(strings.Fields(line), " "))
		}
	}
	return nil
}
