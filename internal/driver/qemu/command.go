package qemu

import (
	"fmt"

	"github.com/aethervm/aether/internal/agentsandbox"
)

// machineConfig is what tells one machine from another. A machine is restored into one that was
// started with the same configuration but for the id.
type machineConfig struct {
	id          string
	binary      string
	accelerator string
	vcpus       int
	memoryMiB   int // what programs may use
	tscKHz      int // of the host
}

// kernelMiB is what a guest has beside the memory of its programs: the kernel, the page tables and
// the agent.
const kernelMiB = 96

// Descriptors that QEMU inherits, in the order of inheritedFiles.
const (
	fdMonitor = 3 + iota
	fdAgent
	fdKernel
	fdInitrd
	fdDisk
	fdState // only for a machine that is restored
)

const (
	accelKVM = "kvm"
	accelTCG = "tcg"
)

// kernelCommandLine of every guest. tscKHz is the frequency of the host's time-stamp counter.
func kernelCommandLine(accel string, tscKHz int, arguments ...string) string {
	// A guest that has failed ends: QEMU exits on a reset.
	words := []string{"console=ttyS0", "panic=-1", "reboot=t"}
	if accel == accelTCG {
		words = append(words,
			// Emulated CPUs do not speculate.
			"mitigations=off",
			// QEMU finds translated code by its virtual address: with random addresses every new
			// process has libc translated again, which makes it five times as slow to start.
			"norandmaps",
			// On a busy host the guest cannot find out by itself: see package tsc. Its watchdog would
			// also take the counter for unstable there, and fall back on a clock of 4 ms.
			fmt.Sprintf("tsc_early_khz=%d", tscKHz), "tsc=reliable", "no_timer_check")
	}
	return agentsandbox.Cmdline(words, arguments...)
}

// arguments is QEMU's command line. The guest's only devices are a disk, the agent's port and a
// serial console.
func (c machineConfig) arguments(restored bool) []string {
	accel := accelKVM
	cpu := "host"
	if c.accelerator == accelTCG {
		// A CPU without AVX: emulated vectors of twice the length make copying three times as slow.
		// The bound of the code cache is one of memory: 1 GiB is the default.
		accel, cpu = "tcg,thread=multi,tb-size=64", "Nehalem-v1,+rdrand"
	}
	args := []string{
		"-name", machineName(c.id),
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-machine", "microvm,acpi=on,rtc=on,isa-serial=on",
		"-accel", accel,
		"-cpu", cpu,
		"-smp", fmt.Sprint(c.vcpus),
		"-m", fmt.Sprintf("%dM", c.memoryMiB+kernelMiB),
		"-kernel", fdPath(fdKernel), "-initrd", fdPath(fdInitrd),
		"-append", kernelCommandLine(c.accelerator, c.tscKHz, "init"),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", fdMonitor), "-mon", "chardev=monitor,mode=control",
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d,server=on,wait=off", fdAgent),
		"-device", "virtio-serial-device,max_ports=2", "-device", "virtserialport,chardev=agent,name=aether.agent",
		"-add-fd", fmt.Sprintf("fd=%d,set=1", fdDisk),
		"-blockdev", "driver=file,filename=/dev/fdset/1,node-name=root,read-only=on,locking=off",
		"-device", "virtio-blk-device,drive=root",
	}
	if restored {
		args = append(args, "-incoming", fmt.Sprintf("fd:%d", fdState))
	}
	return args
}

func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// machineName is by what a sweeper finds a process that belongs to nobody.
func machineName(id string) string { return "aether-" + id }
