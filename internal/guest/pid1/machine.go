package pid1

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/guest/files"
	"github.com/aethervm/aether/internal/guest/serve"
)

// machine is the running system. It implements serve.Machine.
type machine struct {
	groups  *cgroups
	reaper  *reaper
	changes *os.File // the file system of what is written
	late    *lateModules
	tree    *files.Tree // what tells what was written

	// starts is held for reading while a program is started, and for writing while the machine is frozen. A program
	// that is started in a frozen group stops before its first instruction; the agent would wait for that one in a
	// system call in which the Go runtime does not know it to be, and with one processor nothing else would run, Thaw
	// neither.
	starts sync.RWMutex
	copied atomic.Int64

	mu        sync.Mutex
	frozen    bool
	bootID    *os.File // what programs see as the boot ID; nil for the kernel's own
	rehearsed bool     // what copies do first has been done once

	bounds  sync.Mutex
	bounded struct { // what holds now; 0 for what was not set
		processes int
		memory    int64 // bytes
	}
}

func newMachine(groups *cgroups, changes *os.File) *machine {
	return &machine{groups: groups, changes: changes, reaper: newReaper(groups.sweep)}
}

// errCopied is the error of a program that was to be started while the machine was copied, in the copies: whoever
// has asked for it has the original.
var errCopied = errors.New("the machine is a copy of the one that was asked")

// process is a program in a control group of its own. It implements serve.Process.
type process struct {
	group  *group
	done   chan struct{}
	status unix.WaitStatus
}

func (m *machine) Start(program serve.Program) (serve.Process, error) {
	g, err := m.groups.newGroup()
	if err != nil {
		return nil, err
	}
	attr := &syscall.ProcAttr{
		Dir: program.Dir, Env: program.Env,
		Files: []uintptr{program.Stdio[0].Fd(), program.Stdio[1].Fd(), program.Stdio[2].Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: program.Terminal, UseCgroupFD: true, CgroupFD: int(g.dir.Fd())},
	}
	copied := m.copied.Load()
	m.starts.RLock()
	defer m.starts.RUnlock()
	if m.copied.Load() != copied {
		g.release()
		return nil, errCopied
	}
	status, err := m.reaper.start(program.Path, program.Args, attr)
	if err != nil {
		g.discard()
		return nil, err
	}
	p := &process{group: g, done: make(chan struct{})}
	go func() {
		p.status = <-status
		close(p.done)
	}()
	return p, nil
}

func (p *process) Done() <-chan struct{} { return p.done }

func (p *process) Status() (code, signal int) {
	if p.status.Signaled() {
		return -1, int(p.status.Signal())
	}
	return p.status.ExitStatus(), 0
}

func (p *process) Kill() { p.group.kill() }

// Release keeps the group for the next program only if this one has ended by itself. One that was killed may have killed the group: see
// group.kill.
func (p *process) Release() {
	select {
	case <-p.done:
		if !p.status.Signaled() {
			p.group.release()
			return
		}
	default:
	}
	p.group.discard()
}

// Configure makes the machine the one that the host wants it to be.
func (m *machine) Configure(c agentproto.Config) error {
	if len(c.Entropy) > 0 {
		if err := addEntropy(c.Entropy); err != nil {
			return err
		}
	}
	if !c.Now.IsZero() {
		now := unix.NsecToTimeval(c.Now.UnixNano())
		if err := unix.Settimeofday(&now); err != nil {
			return fmt.Errorf("set the clock: %w", err)
		}
	}
	if c.Hostname != "" {
		if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
			return fmt.Errorf("set the host name: %w", err)
		}
	}
	if err := m.bound(c.Processes, c.MemoryBytes); err != nil {
		return err
	}
	if c.Network.Address.IsValid() {
		if err := m.late.load(); err != nil { // the card's driver is one of them
			return err
		}
		return setUpNetwork(c.Network)
	}
	return nil
}

// bound bounds the number of all programs' processes and their memory, either only if it is not 0. A copy is usually told
// what it is bound to already.
func (m *machine) bound(processes int, memory int64) error {
	m.bounds.Lock()
	defer m.bounds.Unlock()
	if processes > 0 && processes != m.bounded.processes {
		if err := writeAt(m.groups.all, "pids.max", strconv.Itoa(processes)); err != nil {
			return fmt.Errorf("bound processes: %w", err)
		}
		m.bounded.processes = processes
	}
	if memory > 0 && memory != m.bounded.memory {
		m.bounded.memory = 0 // unknown if it fails halfway
		if err := m.boundMemory(memory); err != nil {
			return err
		}
		m.bounded.memory = memory
	}
	return nil
}

// boundMemory bounds the memory of all programs. Files that a program writes count as its memory;
// those that the host writes do not, so the file system has a bound of its own: what is left for the
// kernel and the agent must not depend on either.
func (m *machine) boundMemory(bytes int64) error {
	if err := writeAt(m.groups.all, "memory.max", strconv.FormatInt(bytes, 10)); err != nil {
		return fmt.Errorf("bound memory: %w", err)
	}
	return resizeTmpfs(m.changes, bytes/4*3)
}

// Freeze stops all programs; those that are to be started wait. What is still to be loaded is loaded first, and what
// copies do first is done once: else each copy would do it by itself. It is idempotent.
func (m *machine) Freeze() error {
	if err := m.late.load(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.frozen {
		return nil
	}
	m.starts.Lock()
	if err := m.groups.setFrozen(true); err != nil {
		err = errors.Join(err, m.groups.setFrozen(false))
		m.starts.Unlock()
		return err
	}
	m.frozen = true
	m.rehearse()
	m.groups.prepare()
	return nil
}

// Thaw applies c, so that no program sees what was before, and lets the programs go on.
func (m *machine) Thaw(c agentproto.Config) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.Configure(c); err != nil {
		return err
	}
	if c.MachineID != [16]byte{} {
		if err := m.renew(c.MachineID); err != nil {
			return err
		}
		m.copied.Add(1)
	}
	err := m.groups.setFrozen(false)
	if m.frozen {
		m.frozen = false
		m.starts.Unlock()
	}
	return err
}

func (m *machine) Frozen() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.frozen
}

func (m *machine) Copied() int { return int(m.copied.Load()) }

func (m *machine) Stats() (agentproto.Stats, error) {
	memory, err1 := m.groups.value("memory.current")
	cpu, err2 := m.groups.keyed("cpu.stat", "usage_usec")
	count, err3 := m.groups.value("pids.current")
	return agentproto.Stats{
		MemoryBytes: memory, CPUNanos: cpu * int64(time.Microsecond), Processes: int(count),
	}, errors.Join(err1, err2, err3)
}
