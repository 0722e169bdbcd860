package lab

import (
	"fmt"
	"strings"
)

// machineConfig is what tells one machine from another.
type machineConfig struct {
	cpus, memoryMiB int
	icount          bool
	tscKHz          int    // of the host's time-stamp counter; not used with icount
	base, peers     int64  // sizes of the disks in bytes
	firmware        string // directory; "" is QEMU's own
}

// Descriptors that QEMU inherits, in this order. The names of the ports are in package guest.
const (
	fdKernel = 3 + iota
	fdInitrd
	fdBase
	fdPeers
	fdConsole
	fdStdout
	fdStderr
	fdReport
	fdMonitor
)

// What a machine with icount has in place of the host's: a clock that starts here, and random
// numbers from this seed. With these two, and since it never waits for the host, the machine does
// the same each time.
const (
	icountEpoch = "2026-01-01T00:00:00"
	icountSeed  = "1"
	// Two nanoseconds an instruction. The time-stamp counter then counts nanoseconds.
	icountShift  = 1
	icountTSCKHz = 1_000_000
)

// images are the block devices of the disks in the lab, the uppermost layer first.
func images() []string { return []string{"/dev/pmem1", "/dev/pmem0"} }

// publicDevices are those that Debian lets every user open.
var publicDevices = []string{"/dev/kvm", "/dev/net/tun"}

// kernelCommandLine is followed by the arguments of the init program.
func (c machineConfig) kernelCommandLine(initArgs []string) string {
	tsc := c.tscKHz
	if c.icount {
		tsc = icountTSCKHz
	}
	words := []string{
		"console=ttyS0", "loglevel=4",
		// A lab that has failed ends: QEMU exits on a reset.
		"panic=-1", "reboot=t", "rdinit=/init",
		"random.trust_cpu=on",
		// Emulated CPUs do not speculate.
		"mitigations=off",
		// The clock is the counter, of known frequency: on a busy host it cannot be measured, and a
		// watchdog would find fault with it, as it would with a CPU that the host lets wait.
		fmt.Sprintf("tsc_early_khz=%d", tsc), "tsc=reliable", "no_timer_check", "nowatchdog",
		"rcupdate.rcu_expedited=1", "cryptomgr.notests", "audit=0",
	}
	if !c.icount {
		// A tick that comes by itself. QEMU's VMRUN and #VMEXIT change the word of pending interrupts without a lock, so that
		// one that its timers' thread sets at that moment is lost; with timers that are set anew by their interrupt the
		// machine then stood still for ever. With icount both are one thread.
		words = append(words, "nohz=off", "highres=off")
	}
	return strings.Join(append(append(words, "--"), initArgs...), " ")
}

// arguments is QEMU's command line. The machine has no device that the host would answer later:
// its disks are memory, which is the page cache of their files, and its ports only send. (Disks of
// any other kind take host time, which a machine with icount would see as time of its own.)
func (c machineConfig) arguments(initArgs []string) []string {
	const mib, gib = 1 << 20, 1 << 30
	room := int64(c.memoryMiB)*mib + c.base + c.peers + 4*gib // with room for alignment
	args := []string{
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-machine", "q35,nvdimm=on,usb=off,smm=off,vmport=off,sata=off,smbus=off,graphics=off,hpet=off",
		// Without XSAVE: emulated in a nested guest, the sizes that it reports did not agree, and the guest's
		// kernel warned of it. Nothing that is measured here needs it.
		"-cpu", "max,+svm,-xsave",
		"-smp", fmt.Sprint(c.cpus),
		"-m", fmt.Sprintf("size=%dM,slots=2,maxmem=%dM", c.memoryMiB, room/mib),
		"-kernel", fdPath(fdKernel), "-initrd", fdPath(fdInitrd), "-append", c.kernelCommandLine(initArgs),
		"-device", "virtio-serial-pci,max_ports=4,ioeventfd=off",
		"-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", fdMonitor), "-mon", "chardev=monitor,mode=control",
	}
	if c.firmware != "" {
		args = append(args, "-L", c.firmware)
	}
	if c.icount {
		args = append(args,
			"-accel", "tcg,thread=single,tb-size=512",
			"-icount", fmt.Sprintf("shift=%d,sleep=off", icountShift),
			"-rtc", "base="+icountEpoch+",clock=vm", "-seed", icountSeed)
	} else {
		args = append(args, "-accel", "tcg,thread=multi,tb-size=512")
	}
	for _, disk := range []struct {
		id   string
		fd   int
		size int64
	}{{"base", fdBase, c.base}, {"peers", fdPeers, c.peers}} {
		args = append(args,
			"-object", fmt.Sprintf("memory-backend-file,id=%s,mem-path=%s,size=%d,share=on,readonly=on", disk.id, fdPath(disk.fd), disk.size),
			"-device", fmt.Sprintf("nvdimm,memdev=%s,unarmed=on", disk.id))
	}
	for i, p := range ports {
		args = append(args,
			"-add-fd", fmt.Sprintf("fd=%d,set=%d", p.fd, i+1),
			"-chardev", fmt.Sprintf("file,id=port%d,path=/dev/fdset/%d,append=on", i, i+1))
		if p.name == "" {
			args = append(args, "-serial", fmt.Sprintf("chardev:port%d", i))
		} else {
			args = append(args, "-device", fmt.Sprintf("virtserialport,chardev=port%d,name=%s", i, p.name))
		}
	}
	return args
}

func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
