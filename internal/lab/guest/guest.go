// Package guest is PID 1 of a lab: it makes a running system of an initramfs and read-only images,
// runs one program, reports, and turns the machine off.
//
// Everything that it needs is there when the machine starts, and it never waits for the host. So
// in a machine whose clock counts instructions, the same job takes the same time, to the
// nanosecond.
package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Places in the initramfs, where the host puts things.
const (
	JobFile    = "/lab/job.json"
	ModulesDir = "/lab/modules"
	FilesDir   = "/lab/files" // a tree, laid over the images
)

// Names of the virtio-serial ports.
const (
	PortStdout = "lab.stdout"
	PortStderr = "lab.stderr"
	// PortReport carries a Report as one line of JSON, then, if Job.Collect is set, an archive in
	// tar form of that directory.
	PortReport = "lab.report"
)

// Job is what a lab is started for.
type Job struct {
	Args     []string `json:"args"`
	Env      []string `json:"env"`
	Dir      string   `json:"dir"`
	Hostname string   `json:"hostname"`
	// Images are block devices with the layers of the root file system, the uppermost first.
	Images []string `json:"images"`
	// Early are modules of the initramfs, in the order in which they are to be loaded. Late are
	// loaded with what they depend on from the root file system.
	Early []string `json:"early"`
	Late  []string `json:"late"`
	// Public are devices that every user may open.
	Public []string `json:"public"`
	// Self, if set, is where this program is found in the root file system.
	Self string `json:"self,omitempty"`
	// Collect, if set, is a directory that is made for the program and sent to the host at the end.
	Collect string `json:"collect,omitempty"`
}

// Report is how a job ended.
type Report struct {
	// Error says that the program could not be started, and why. NotFound: there is none.
	Error    string `json:"error,omitempty"`
	NotFound bool   `json:"not_found,omitempty"`
	// Code is the exit code; -1 if Signal ended the program.
	Code   int `json:"code"`
	Signal int `json:"signal,omitempty"`
	// Boot is CLOCK_MONOTONIC when the program was started, Run how long it ran by the same clock,
	// both in nanoseconds.
	Boot int64 `json:"boot_ns"`
	Run  int64 `json:"run_ns"`
	// Stdout and Stderr are how many bytes were written to these ports. When the host has them all, it ends the
	// machine: what the emulator has of a port when a machine ends by itself is lost.
	Stdout int64 `json:"stdout_bytes"`
	Stderr int64 `json:"stderr_bytes"`
}

// Main is the whole life of the machine, which the host ends once it has the report. It returns only an error, of a
// machine on which nothing can be said or done: when PID 1 then ends, the kernel panics, and the host has the
// console to look at.
func Main() error {
	if os.Getpid() != 1 {
		return errors.New("lab init: not PID 1 of a machine")
	}
	job, err := boot()
	if err == nil {
		err = work(job)
	}
	for err == nil {
		_ = unix.Pause() // interrupted by signals, of orphans that end
	}
	err = fmt.Errorf("lab init: %w", err)
	if sayErr := say(err); sayErr != nil {
		return errors.Join(err, sayErr)
	}
	return errors.Join(err, unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

// say puts an error among the kernel's messages, which the host reads: no other channel is there
// from the beginning.
func say(err error) error {
	const emergency = "<0>"
	f, openErr := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if openErr != nil {
		return openErr
	}
	_, writeErr := f.WriteString(emergency + strings.ReplaceAll(err.Error(), "\n", " ") + "\n")
	return errors.Join(writeErr, f.Close())
}

// boot makes the system that the program runs on.
func boot() (Job, error) {
	var job Job
	text, err := os.ReadFile(JobFile)
	if err != nil {
		return job, err
	}
	if err := json.Unmarshal(text, &job); err != nil {
		return job, fmt.Errorf("%s: %w", JobFile, err)
	}
	if err := mountKernelFilesystems(); err != nil {
		return job, err
	}
	for _, name := range job.Early {
		if err := loadModule(filepath.Join(ModulesDir, name)); err != nil {
			return job, err
		}
	}
	if err := switchRoot(job); err != nil {
		return job, err
	}
	if err := mountSystem(); err != nil {
		return job, err
	}
	if err := unix.Sethostname([]byte(job.Hostname)); err != nil {
		return job, fmt.Errorf("set the host name: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return job, err
	}
	if len(job.Late) > 0 {
		cmd := exec.Command("/sbin/modprobe", append([]string{"-a"}, job.Late...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return job, fmt.Errorf("modprobe: %w: %s", err, strings.TrimSpace(string(out)))
		}
	}
	// What udev does elsewhere: a driver may run its VMM as a user of its own.
	for _, device := range job.Public {
		if err := os.Chmod(device, 0o666); err != nil {
			return job, err
		}
	}
	return job, nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load kernel module %s: %w", path, err)
	}
	return nil
}

// loopbackUp brings the only network interface up.
func loopbackUp() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(socket) //nolint:errcheck // it has no data
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, req); err != nil {
		return fmt.Errorf("interface lo: %w", err)
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("interface lo up: %w", err)
	}
	return nil
}
