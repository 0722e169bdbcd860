package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guest/device"
)

// work runs the job's program, passes on what it writes, and reports.
func work(job Job) error {
	ports, err := openPorts(PortStdout, PortStderr, PortReport)
	if err != nil {
		return err
	}
	for _, dir := range []string{job.Dir, job.Collect} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	report, err := run(job, ports[0], ports[1])
	if err != nil {
		return err
	}
	out := ports[2]
	if err := json.NewEncoder(out).Encode(report); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if job.Collect != "" {
		if err := archive(out, job.Collect); err != nil {
			return fmt.Errorf("send %s: %w", job.Collect, err)
		}
	}
	return nil // the ports stay open: the host may still be reading
}

// run runs the program to its end. What it has left running by then is killed.
func run(job Job, stdout, stderr io.Writer) (Report, error) {
	if err := setPath(job.Env); err != nil {
		return Report{}, err
	}
	cmd := exec.Command(job.Args[0], job.Args[1:]...)
	cmd.Dir, cmd.Env = job.Dir, job.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var pumps sync.WaitGroup
	var pipes []*os.File
	var written [2]int64
	// Not the ports themselves: a port cannot be opened a second time, as by `echo >/dev/stderr`.
	for i, to := range []struct {
		port io.Writer
		file *io.Writer
	}{{stdout, &cmd.Stdout}, {stderr, &cmd.Stderr}} {
		r, w, err := os.Pipe()
		if err != nil {
			return Report{}, err
		}
		*to.file = w
		pipes = append(pipes, w)
		pumps.Go(func() {
			written[i], _ = io.Copy(to.port, r) // fails when the host has gone away, and then all ends
		})
	}
	begin := monotonic()
	err := cmd.Start()
	for _, w := range pipes {
		_ = w.Close()
	}
	if err != nil {
		pumps.Wait()
		return Report{Error: err.Error(), Code: -1, Boot: begin,
			NotFound: errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist)}, nil
	}
	status := reapUntil(cmd.Process.Pid)
	r := Report{Boot: begin, Run: monotonic() - begin, Code: status.ExitStatus()}
	if status.Signaled() {
		r.Signal = int(status.Signal())
	}
	// Those that are left hold the pipes open.
	if err := unix.Kill(-1, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return r, fmt.Errorf("end what the program left behind: %w", err)
	}
	pumps.Wait()
	r.Stdout, r.Stderr = written[0], written[1]
	return r, nil
}

// reapUntil collects every child of PID 1, orphans too, until that with the given PID has ended.
func reapUntil(pid int) unix.WaitStatus {
	for {
		var status unix.WaitStatus
		if got, err := unix.Wait4(-1, &status, 0, nil); err == nil && got == pid {
			return status
		}
	}
}

// setPath lets the program be looked up where it would itself look.
func setPath(env []string) error {
	for _, kv := range env {
		if value, ok := strings.CutPrefix(kv, "PATH="); ok {
			return os.Setenv("PATH", value)
		}
	}
	return nil
}

func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return ts.Nano()
}

// openPorts opens virtio-serial ports by their names.
func openPorts(names ...string) ([]*os.File, error) {
	var ports []*os.File
	for _, name := range names {
		path, err := device.Port(name)
		if err != nil {
			return nil, err
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("open port %s: %w", name, err)
		}
		ports = append(ports, f)
	}
	return ports, nil
}
