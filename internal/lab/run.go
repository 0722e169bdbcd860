package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/lab/guest"
	"github.com/aethervm/aether/internal/tail"
	"github.com/aethervm/aether/internal/tsc"
	"github.com/aethervm/aether/sandbox"
)

// Places in a lab.
const (
	// GuestDir is the working directory of the program, and where files are put.
	GuestDir = "/lab"
	// GuestOut is what is copied back.
	GuestOut = "/lab/out"
	// guestSelf is where the program that is PID 1 is found by others.
	guestSelf = "/usr/local/bin/aether"
	hostname  = "lab"
)

// Bounds of a machine.
const (
	DefaultCPUs      = 1
	MaxCPUs          = 16
	DefaultMemoryMiB = 4096
	MinMemoryMiB     = 512
	MaxMemoryMiB     = 1 << 20
)

// Config says what to run.
type Config struct {
	// CPUs and MemoryMiB are the size of the machine; 0 means the default.
	CPUs, MemoryMiB int
	// Icount makes the machine's clock count instructions: the same job takes the same time by it. It
	// needs CPUs to be 1.
	Icount bool
	// Args is the program with its arguments. It is looked up in the PATH of Env, if it has one.
	Args []string
	// Env is added to the lab's own environment: KEY=value.
	Env []string
	// Files are given to the lab. All are held in its memory.
	Files []File
	// Out, if set, is a directory of this host that gets what the program leaves in GuestOut. It is
	// made if it is missing.
	Out string
	// Stdout and Stderr get what the program writes, Console what the lab's kernel says. Each may be
	// nil.
	Stdout, Stderr, Console io.Writer
	// Init is the path of a static program that calls guest.Main when it is run with InitArgs, which
	// hold no spaces.
	Init     string
	InitArgs []string
}

// Result is how the program ended.
type Result struct {
	// Code is its exit code; -1 if Signal ended it.
	Code   int
	Signal int
	// Lab is how long it ran by the lab's clock (CLOCK_MONOTONIC), Boot what that showed when it was
	// started.
	Lab, Boot time.Duration
	// Host is the time that all of it took on this host.
	Host time.Duration
}

func (c *Config) check() error {
	bad := func(format string, args ...any) error {
		return &sandbox.Error{Op: "run lab", Err: sandbox.ErrInvalid, Detail: fmt.Sprintf(format, args...)}
	}
	if c.CPUs == 0 {
		c.CPUs = DefaultCPUs
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = DefaultMemoryMiB
	}
	switch {
	case len(c.Args) == 0 || c.Args[0] == "":
		return bad("no program to run")
	case c.CPUs < 1 || c.CPUs > MaxCPUs:
		return bad("%d CPUs; it must be 1 to %d", c.CPUs, MaxCPUs)
	case c.Icount && c.CPUs > 1:
		// The kernel may not get past the start of its second CPU; see docs/LAB.md.
		return bad("a clock that counts instructions is that of one CPU, not of %d", c.CPUs)
	case c.MemoryMiB < MinMemoryMiB || c.MemoryMiB > MaxMemoryMiB:
		return bad("%d MiB of memory; it must be %d to %d", c.MemoryMiB, MinMemoryMiB, MaxMemoryMiB)
	}
	return nil
}

// Run boots a lab, runs one program in it, and throws it away. It returns when nothing is left of
// it; a lab whose owner is killed dies too. When ctx ends, so does the lab. Safe for concurrent use.
func Run(ctx context.Context, image Image, c Config) (Result, error) {
	start := time.Now()
	if err := c.check(); err != nil {
		return Result{}, err
	}
	qemu, err := image.emulator()
	if err != nil {
		return Result{}, err
	}
	m := &machine{binary: qemu.binary,
		config:  machineConfig{cpus: c.CPUs, memoryMiB: c.MemoryMiB, icount: c.Icount, firmware: qemu.firmware},
		console: tail.New(tailSize), messages: tail.New(tailSize)}
	defer m.closeFiles()
	if err := m.prepare(image, c); err != nil {
		return Result{}, fmt.Errorf("run lab: %w", err)
	}
	report, err := m.run(ctx, c)
	if err != nil {
		if ctx.Err() != nil && m.stands == "" {
			err = context.Cause(ctx)
		}
		return Result{}, fmt.Errorf("run lab: %w", err)
	}
	if report.Error != "" {
		return Result{}, &sandbox.Error{Op: "run lab", Err: sandbox.ErrCannotRun, Detail: report.Error}
	}
	return Result{
		Code: report.Code, Signal: report.Signal, Lab: time.Duration(report.Run), Boot: time.Duration(report.Boot),
		Host: time.Since(start),
	}, nil
}

// ports are the ways out of the machine, in the order of their devices. The one without a name is
// the console.
var ports = [...]struct {
	fd   int
	name string
}{{fdConsole, ""}, {fdStdout, guest.PortStdout}, {fdStderr, guest.PortStderr}, {fdReport, guest.PortReport}}

// machine is one QEMU process.
type machine struct {
	binary  string
	config  machineConfig
	inputs  []*os.File // what it reads, in the order of the descriptors
	readers []*os.File // our ends of the ports
	writers []*os.File // its ends
	monitor *net.UnixConn
	stands  string // what it said of itself when its time was up

	console, messages *tail.Tail
}

func (m *machine) closeFiles() {
	for _, f := range slices.Concat(m.inputs, m.readers, m.writers) {
		_ = f.Close()
	}
	if m.monitor != nil {
		_ = m.monitor.Close()
	}
}

// prepare opens and makes all that the machine gets.
func (m *machine) prepare(image Image, c Config) error {
	var sizes []int64
	open := func(names ...string) error {
		f, err := os.Open(filepath.Join(append([]string{image.dir}, names...)...))
		if err != nil {
			return fmt.Errorf("%w (build the lab again)", err)
		}
		m.inputs = append(m.inputs, f)
		info, err := f.Stat()
		if err == nil {
			sizes = append(sizes, info.Size())
		}
		return err
	}
	if err := open(image.kernel, vmlinuxName); err != nil {
		return err
	}
	initrd, err := buildInitrd(image, c)
	if err != nil {
		return err
	}
	m.inputs = append(m.inputs, initrd)
	if err := errors.Join(open(image.Base, diskName), open(image.Peers, diskName)); err != nil {
		return err
	}
	m.config.base, m.config.peers = sizes[1], sizes[2]
	if !c.Icount {
		m.config.tscKHz = tsc.KHz()
	}
	for range ports {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		m.readers, m.writers = append(m.readers, r), append(m.writers, w)
		// No more than a wish: it fails when the user's pipes take too much memory.
		_, _ = unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 1<<20)
	}
	ours, its, err := monitorPair()
	if err != nil {
		return err
	}
	m.monitor, m.writers = ours, append(m.writers, its)
	return nil
}

// run runs the machine to its end and returns what the job reported.
func (m *machine) run(ctx context.Context, c Config) (guest.Report, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var out *os.Root
	if c.Out != "" {
		err := os.MkdirAll(c.Out, 0o755)
		if err == nil {
			out, err = os.OpenRoot(c.Out)
		}
		if err != nil {
			return guest.Report{}, err
		}
		defer out.Close() //nolint:errcheck // only a directory
	}
	exited, err := m.start(ctx, c.InitArgs)
	if err != nil {
		return guest.Report{}, err
	}
	var copying sync.WaitGroup
	stdout, stderr := newCounter(), newCounter()
	forward := func(port int, to ...io.Writer) {
		to = slices.DeleteFunc(to, func(w io.Writer) bool { return w == nil })
		copying.Go(func() {
			if _, err := io.Copy(io.MultiWriter(to...), m.readers[port]); err != nil {
				cancel(err) // nobody reads the output any more
			}
		})
	}
	forward(0, m.console, c.Console)
	forward(1, c.Stdout, stdout)
	forward(2, c.Stderr, stderr)
	var report guest.Report
	var reportErr error
	alive, ended := context.WithCancel(ctx)
	defer ended()
	copying.Go(func() {
		if report, reportErr = readReport(m.readers[3], out, int64(m.config.memoryMiB)<<20); reportErr != nil {
			// The machine ends by itself if it has ended already; else it would wait for a reader.
			_, _ = io.Copy(io.Discard, m.readers[3])
			return
		}
		if stdout.await(alive, report.Stdout) && stderr.await(alive, report.Stderr) {
			cancel(errWhole)
		}
	})
	err = <-exited
	ended()
	copying.Wait()
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errWhole):
		return report, nil
	case m.stands != "":
		return report, fmt.Errorf("%w; %s", cause, m.stands)
	case cause != nil:
		return report, cause
	case errors.Is(reportErr, errNoReport) || err != nil:
		return report, m.explain(err)
	case reportErr != nil:
		return report, reportErr
	}
	return report, m.explain(errors.New("and before all that it has written was there"))
}

// errWhole is why a machine is ended that has nothing more to say.
var errWhole = errors.New("the lab is done")

// start starts QEMU. What it returns is sent how the process ended.
func (m *machine) start(ctx context.Context, initArgs []string) (<-chan error, error) {
	cmd := exec.CommandContext(ctx, m.binary, m.config.arguments(initArgs)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.ExtraFiles = slices.Concat(m.inputs, m.writers)
	cmd.Stdout, cmd.Stderr = m.messages, m.messages
	cmd.Cancel = func() error {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			m.stands = m.inquire()
		}
		return cmd.Process.Kill()
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	started, exited := make(chan error), make(chan error, 1)
	go func() {
		// The kernel sends the death signal when the thread that made the process ends, so that
		// thread is kept until the process has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		for _, w := range m.writers {
			_ = w.Close() // it has its own
		}
		started <- err
		if err == nil {
			exited <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	return exited, nil
}

// explain is the error of a machine that ended without a report.
func (m *machine) explain(err error) error {
	out := errors.New("the lab ended before its program did")
	if err != nil {
		out = fmt.Errorf("%w: %w", out, err)
	}
	said := m.messages.Last(4)
	if lacks := missingLibrary(said); lacks != nil {
		return lacks
	}
	if said != "" {
		out = fmt.Errorf("%w; QEMU: %s", out, said)
	}
	if said := cause(m.console, 8, "lab init: ", "Kernel panic"); said != "" {
		out = fmt.Errorf("%w; console: %s", out, said)
	}
	return out
}
