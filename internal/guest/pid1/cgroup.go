package pid1

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups is the tree of control groups that programs run in: one group, with the bounds of all,
// and below it one group an exec, so that killing an exec reaches everything that it has started.
//
// The file system is reached by a descriptor and not mounted where programs see it: a program that
// could move itself to another group would get away.
type cgroups struct {
	all *os.File // directory of the group of all programs

	mu       sync.Mutex
	next     uint64
	spare    *group              // empty, for the next exec; may be nil
	leftover map[string]struct{} // groups of ended execs in which something still runs
}

const allName = "programs"

// openCgroups mounts the control group file system, hides it, and makes the group of all programs.
func openCgroups() (*cgroups, error) {
	const mount = "/run/aether-cgroup"
	if err := mountAll(mountPoint{"cgroup2", mount, "cgroup2", noSuid, ""}); err != nil {
		return nil, err
	}
	root, err := os.Open(mount)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := errors.Join(unix.Unmount(mount, unix.MNT_DETACH), os.Remove(mount)); err != nil {
		return nil, fmt.Errorf("hide control groups: %w", err)
	}
	if err := writeAt(root, "cgroup.subtree_control", "+memory +pids"); err != nil {
		return nil, fmt.Errorf("enable control groups: %w", err)
	}
	if err := unix.Mkdirat(int(root.Fd()), allName, 0o755); err != nil {
		return nil, fmt.Errorf("make control group: %w", err)
	}
	all, err := openDirAt(root, allName)
	if err != nil {
		return nil, err
	}
	return &cgroups{all: all, leftover: map[string]struct{}{}}, nil
}

// group is the control group of one exec.
type group struct {
	tree   *cgroups
	name   string
	dir    *os.File
	killed atomic.Bool
}

// newGroup returns a group for an exec: the spare one, if there is one.
func (c *cgroups) newGroup() (*group, error) {
	c.mu.Lock()
	g := c.spare
	c.spare = nil
	c.mu.Unlock()
	if g != nil {
		return g, nil
	}
	return c.makeGroup()
}

func (c *cgroups) makeGroup() (*group, error) {
	c.mu.Lock()
	c.next++
	name := strconv.FormatUint(c.next, 10)
	c.mu.Unlock()
	if err := unix.Mkdirat(int(c.all.Fd()), name, 0o755); err != nil {
		return nil, fmt.Errorf("make control group: %w", err)
	}
	dir, err := openDirAt(c.all, name)
	if err != nil {
		return nil, errors.Join(err, c.remove(name))
	}
	return &group{tree: c, name: name, dir: dir}, nil
}

// prepare makes a spare group if there is none, and if it can.
func (c *cgroups) prepare() {
	c.mu.Lock()
	has := c.spare != nil
	c.mu.Unlock()
	if has {
		return
	}
	if g, err := c.makeGroup(); err == nil && !c.keep(g) {
		g.discard()
	}
}

// keep makes an empty group the spare one. It reports false if there is one already.
func (c *cgroups) keep(g *group) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.spare != nil {
		return false
	}
	c.spare = g
	return true
}

func (c *cgroups) remove(name string) error {
	return unix.Unlinkat(int(c.all.Fd()), name, unix.AT_REMOVEDIR)
}

// killPatience bounds the wait for killed processes. Only one that is stuck in the kernel takes
// longer.
const killPatience = 10 * time.Second

// kill kills every process of the group and returns when none is left. No other program is to be started in it: kernels of Linux 6.1 and
// 6.12 take one that is cloned into a group that was killed once for one that was cloned meanwhile, and kill it.
func (g *group) kill() {
	g.killed.Store(true)
	if writeAt(g.dir, "cgroup.kill", "1") != nil {
		return
	}
	for start := time.Now(); time.Since(start) < killPatience; time.Sleep(time.Millisecond) {
		if events, err := readAt(g.dir, "cgroup.events"); err != nil || strings.Contains(events, unpopulated) {
			return
		}
	}
}

const unpopulated = "populated 0"

// fresh tells whether the group is as a new one: with no process, not killed, not stopped, and without groups below it, beside which the
// kernel lets no process be. A program that mounts control groups for itself can do both.
func (g *group) fresh() bool {
	if g.killed.Load() {
		return false
	}
	events, err := readAt(g.dir, "cgroup.events")
	if err != nil || !strings.Contains(events, unpopulated) || !strings.Contains(events, "frozen 0") {
		return false
	}
	info, err := g.dir.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Nlink == 2 // itself, and its name
}

// release gives the group up. One that is as new is the next exec's, as to make and to remove one takes the kernel long, and
// memory: nobody but the agent puts a process there. Any other is removed now, or when the last of its processes has ended.
func (g *group) release() {
	if !g.fresh() || !g.tree.keep(g) {
		g.discard()
	}
}

// discard gives the group up for good: one in which a program could not be started may be why.
func (g *group) discard() {
	_ = g.dir.Close()
	if err := g.tree.remove(g.name); errors.Is(err, unix.EBUSY) {
		g.tree.mu.Lock()
		g.tree.leftover[g.name] = struct{}{}
		g.tree.mu.Unlock()
	}
}

// sweep removes groups that were given up and have become empty.
func (c *cgroups) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.leftover {
		if err := c.remove(name); !errors.Is(err, unix.EBUSY) {
			delete(c.leftover, name)
		}
	}
}

// setFrozen stops all programs or lets them go on, and returns when that is so.
func (c *cgroups) setFrozen(frozen bool) error {
	value := "0"
	if frozen {
		value = "1"
	}
	if err := writeAt(c.all, "cgroup.freeze", value); err != nil {
		return fmt.Errorf("freeze programs: %w", err)
	}
	for start := time.Now(); ; time.Sleep(100 * time.Microsecond) {
		events, err := readAt(c.all, "cgroup.events")
		if err != nil {
			return fmt.Errorf("freeze programs: %w", err)
		}
		if strings.Contains(events, "frozen "+value) {
			return nil
		}
		if time.Since(start) > killPatience {
			return errors.New("freeze programs: some do not stop")
		}
	}
}

// value reads a file that holds one number.
func (c *cgroups) value(name string) (int64, error) {
	text, err := readAt(c.all, name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(text), 10, 64)
}

// keyed reads one number of a file that holds a name and a number a line.
func (c *cgroups) keyed(name, key string) (int64, error) {
	text, err := readAt(c.all, name)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, key+" "); ok {
			return strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", name, key)
}

func openDirAt(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open control group: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func openAt(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func writeAt(dir *os.File, name, value string) error {
	f, err := openAt(dir, name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func readAt(dir *os.File, name string) (string, error) {
	f, err := openAt(dir, name, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 64<<10))
	return string(text), err
}
