package inside

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/probe/finding"
)

// Identity is the name of the probe whose items the host compares with its own kernel's. The items
// are "key=value" with the keys below.
const (
	Identity        = "kernel.identity"
	IdentityRelease = "release"
	IdentityVersion = "version"
	IdentityBootID  = "boot_id"
	IdentityBooted  = "boot_time" // seconds since 1970
)

func kernelProbes() []entry {
	return []entry{
		{finding.Probe{Name: Identity, Scope: finding.ScopeKernel,
			Question: "Which kernel answers guest code: release, version, boot ID, boot time?",
			Better:   "Not the host's: a hole in it does not lead to the host.",
			Worse:    "The host's own: every hole in it does."}, identity},
		{finding.Probe{Name: "kernel.log", Scope: finding.ScopeKernel,
			Question: "Can guest code read the kernel's log?",
			Better:   "No: the log tells of the host's hardware, addresses and neighbours.",
			Worse:    "Yes."}, kernelLog},
		{finding.Probe{Name: "kernel.memory", Scope: finding.ScopeKernel,
			Question: "Can guest code open the kernel's memory (/proc/kcore)?",
			Better:   "No, or something else is mounted over it.",
			Worse:    "Yes: all of the host's memory can be read."}, kernelMemory},
		{finding.Probe{Name: "kernel.addresses", Scope: finding.ScopeKernel,
			Question: "Does /proc/kallsyms show the kernel's addresses?",
			Better:   "No: an exploit has to guess where the kernel lies.",
			Worse:    "Yes."}, kernelAddresses},
		{finding.Probe{Name: "kernel.details", Scope: finding.ScopeKernel,
			Question: "Are files of the kernel readable that tell of the host's timers, scheduler, keys or hardware?",
			Better:   "No: they are hidden or not there.",
			Worse:    "Yes: they tell a guest about its neighbours, and of some no namespace has a view of its own."}, kernelDetails},
		{finding.Probe{Name: "kernel.keyring", Scope: finding.ScopeKernel,
			Question: "Does the kernel's key store answer (keyctl)?",
			Better:   "No: keys have no namespace, so guests with the same user ID share them.",
			Worse:    "Yes."}, keyring},
		{finding.Probe{Name: "kernel.clock", Scope: finding.ScopeKernel,
			Question: "Could guest code set the clock (asked with a value that is always refused)?",
			Better:   "No: the wall clock has no namespace, so it would be everyone's.",
			Worse:    "Yes."}, clock},
	}
}

func identity() answer {
	var items, missing []string
	add := func(key, value string, err error) {
		if err != nil {
			missing = append(missing, key+": "+err.Error())
		} else {
			items = append(items, key+"="+value)
		}
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	add(IdentityBootID, strings.TrimSpace(string(id)), err)
	booted, err := bootTime()
	add(IdentityBooted, booted, err)
	var u unix.Utsname
	err = unix.Uname(&u)
	add(IdentityRelease, unix.ByteSliceToString(u.Release[:]), err)
	add(IdentityVersion, unix.ByteSliceToString(u.Version[:]), err)
	return answer{value: "Linux " + unix.ByteSliceToString(u.Release[:]), verdict: finding.Unknown,
		detail: strings.Join(append([]string{"to be compared with the host's"}, missing...), "; "), items: items}
}

func bootTime() (string, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "btime "); ok {
			return strings.TrimSpace(rest), nil
		}
	}
	return "", errors.New("/proc/stat has no btime")
}

// yes and no are the answers of probes that ask whether something is possible.
func yes(detail string) answer {
	return answer{value: "yes", verdict: finding.Worse, detail: detail}
}

func no(detail string) answer {
	return answer{value: "no", verdict: finding.Better, detail: detail}
}

func kernelLog() answer {
	const sizeOfBuffer = 10 // SYSLOG_ACTION_SIZE_BUFFER: needs the same permission as reading
	n, err := unix.Klogctl(sizeOfBuffer, nil)
	if err == nil {
		return yes(fmt.Sprintf("syslog(2) answers: %d bytes", n))
	}
	f, openErr := os.OpenFile("/dev/kmsg", os.O_RDONLY|unix.O_NONBLOCK, 0)
	if openErr == nil {
		defer func() { _ = f.Close() }()
		if info, err := f.Stat(); err == nil && info.Mode()&fs.ModeCharDevice != 0 && !isNull(info) {
			return yes("/dev/kmsg opens")
		}
	}
	return no(fmt.Sprintf("syslog(2): %v", err))
}

func kernelMemory() answer {
	f, err := os.Open("/proc/kcore")
	if err != nil {
		return no(err.Error())
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return unknown(err)
	}
	if !info.Mode().IsRegular() { // a container engine mounts /dev/null over it
		return no("masked: " + info.Mode().Type().String())
	}
	var magic [4]byte
	if _, err := f.ReadAt(magic[:], 0); err != nil || string(magic[:]) != "\x7fELF" {
		return no(fmt.Sprintf("opens, but does not hold memory: %v", err))
	}
	return yes("/proc/kcore can be read")
}

func kernelAddresses() answer {
	const name = "/proc/kallsyms"
	f, err := os.Open(name)
	if err != nil {
		return no(err.Error())
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	n := 0
	for lines.Scan() && n < 1000 { // the first symbols may be per-CPU ones, which count from zero
		n++
		addr, _, _ := strings.Cut(lines.Text(), " ")
		if strings.Trim(addr, "0") != "" {
			return yes(name + " shows addresses")
		}
	}
	if err := lines.Err(); err != nil {
		return unknown(err)
	}
	return no(fmt.Sprintf("%s shows zeros in %d lines", name, n))
}

// detailFiles have contents of the whole machine, whatever the namespaces of who reads them.
var detailFiles = []string{
	"/proc/acpi", "/proc/interrupts", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
	"/proc/scsi", "/proc/slabinfo", "/proc/timer_list", "/proc/vmallocinfo", "/sys/firmware",
	"/sys/devices/virtual/powercap", "/sys/kernel/debug", "/sys/kernel/security", "/sys/kernel/tracing",
}

func kernelDetails() answer {
	var found []string
	for _, name := range detailFiles {
		if hasContent(name) {
			found = append(found, name)
		}
	}
	if len(found) > 0 {
		return answer{value: fmt.Sprintf("%d readable", len(found)), verdict: finding.Worse, items: found}
	}
	return answer{value: "none", verdict: finding.Better}
}

// hasContent tells whether a file can be read and is not empty, or a directory holds anything.
func hasContent(name string) bool {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		names, _ := f.Readdirnames(1)
		return len(names) > 0
	}
	var b [1]byte
	n, _ := f.Read(b[:])
	return n > 0
}

func keyring() answer {
	// Asks for the session keyring's ID without creating one.
	_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	switch {
	case err == nil, errors.Is(err, unix.ENOKEY):
		return yes("keyctl(2) answers")
	case denied(err):
		return no(fmt.Sprintf("keyctl(2): %v", err))
	}
	return unknown(err)
}

func clock() answer {
	// A tick length of zero is out of range. Permission is checked first, so the error tells.
	_, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_TICK})
	switch {
	case denied(err):
		return no(fmt.Sprintf("adjtimex(2): %v", err))
	case errors.Is(err, unix.EINVAL):
		return yes("adjtimex(2) refuses the value only, not the caller")
	case err == nil:
		return unknown(errors.New("adjtimex(2) accepted what no Linux does"))
	}
	return unknown(err)
}

// denied tells whether a system call was refused to the caller as such, by a filter, for want of a
// privilege, or because it does not exist.
func denied(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSYS)
}

// isNull tells whether a file is the null device, which engines mount over what they hide.
func isNull(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*unixStat)
	return ok && unix.Major(stat.Rdev) == 1 && unix.Minor(stat.Rdev) == 3
}
