package cell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/identity"
	"github.com/aethervm/aether/internal/kvm"
)

// Descriptors of a cell's process, after the usual three: nothing to read, the console's pipe, the
// pipe of what the process itself says.
const (
	linkFile    = 3
	programFile = 4 // closed at once
	deviceFile  = 5 // KVM
)

// exitPatience is how long a process may live that has said that its guest has ended.
const exitPatience = 2 * time.Second

// begin starts the process and waits until it has confined itself.
func (c *Cell) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	device, err := os.OpenFile(kvm.Device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: is KVM there, and may this user use it?", err)
	}
	defer func() { _ = device.Close() }()
	if c.identity, err = identity.Take(); err != nil {
		return err
	}
	ours, theirs, err := packetPair()
	if err != nil {
		return err
	}
	c.link = newLink(ours, c.handle)
	group, groupErr := newGroup(c.cfg.ID, c.cfg.VCPUs, c.cfg.MemoryMiB)
	c.group = group
	begun, err := c.execute([]*os.File{theirs, c.cfg.Program, device})
	// The process has it now. Were it still open here, its death would not end the connection.
	_ = theirs.Close()
	if err != nil {
		return err
	}
	if group != nil && groupErr == nil {
		groupErr = group.join(c.process.pid)
	}
	c.confinement = append(begun, layer(LayerCgroup, group.describe(), groupErr))
	go c.watch()
	if scarce(groupErr) {
		return fmt.Errorf("make a control group: %w", groupErr)
	}
	return c.confine(ctx)
}

// source returns the files that the virtual machine is made of, which stay open until release.
func (c *Cell) source() (files []*os.File, release func(), err error) {
	if c.cfg.From == nil {
		files = []*os.File{c.cfg.Kernel}
		if c.cfg.Initramfs != nil {
			files = append(files, c.cfg.Initramfs)
		}
		return files, func() {}, nil
	}
	if files, err = c.cfg.From.hold(); err != nil {
		return nil, nil, err
	}
	if err := c.take(files[1:], c.cfg.From.uses); err != nil {
		c.cfg.From.release()
		return nil, nil, err
	}
	return files, c.cfg.From.release, nil
}

// execute starts the process, as confined as this host lets this user start one.
func (c *Cell) execute(files []*os.File) (Confinement, error) {
	var refused []string
	var last error
	for _, w := range ways(c.identity) {
		if c.trial.way != "" && c.trial.way != w.name {
			continue
		}
		p, err := begin(w.attributes, files, c.cfg.VCPUs, c.console, c.messages)
		if err != nil {
			refused = append(refused, fmt.Sprintf("%s: %v", w.name, err))
			last = err
			if !w.refusable(err) {
				break
			}
			continue
		}
		p.way = w
		c.process = p
		return w.layers(c.identity, refused), nil
	}
	return nil, &refusedError{strings.Join(refused, "; "), last}
}

// refusedError is why a process could not be started in any way.
type refusedError struct {
	text string
	last error
}

func (e *refusedError) Error() string { return e.text }
func (e *refusedError) Unwrap() error { return e.last }

// buildPatience is how long a process may take to confine itself, and then to build its machine. Each takes
// milliseconds, and a second or two where KVM is emulated.
const buildPatience = time.Minute

// confine tells the process how to confine itself and waits until it has.
func (c *Cell) confine(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, buildPatience, fmt.Errorf("it has not confined itself in %v", buildPatience))
	defer cancel()
	filter, err := filterFor(c.process.ownPID())
	if err != nil {
		return err
	}
	if c.trial.unfiltered {
		filter = nil
	}
	m := &confineMessage{
		Version: protocolVersion, VCPUs: c.cfg.VCPUs, MemoryMiB: c.cfg.MemoryMiB,
		OwnUser: c.identity != nil, Mounts: c.process.way.mounts, UserNamespace: c.process.way.users, Filter: filter, Attempt: c.trial.attempt,
	}
	if c.process.way.become {
		m.User = c.identity.UID()
	}
	_, err = c.call(ctx, message{Kind: kindConfine, Confine: m})
	return err
}

// boot tells the process what to build and waits until the guest runs.
func (c *Cell) boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, buildPatience, fmt.Errorf("it has not built its machine in %v", buildPatience))
	defer cancel()
	flows, err := newFlows(c.cfg.Network)
	if err != nil {
		return err
	}
	if flows != nil {
		flows.link = c.link
		c.flows.Store(flows)
	}
	if c.cfg.Console != nil {
		c.console.sink.Store(&c.cfg.Console)
	}
	source, release, err := c.source()
	if err != nil {
		return err
	}
	defer release()
	files := make([]fder, 0, len(source)+len(c.cfg.Disks))
	for _, f := range source {
		files = append(files, f)
	}
	for _, f := range c.cfg.Disks {
		files = append(files, f)
	}
	b := &bootMessage{
		Branch: c.cfg.From != nil, Initramfs: c.cfg.Initramfs != nil, Disks: len(c.cfg.Disks), Cmdline: c.cfg.Cmdline,
		Network: flows.part(),
	}
	if b.Branch {
		b.Layers = len(source) - 1 // the first is the state
	}
	_, err = c.call(ctx, message{Kind: kindBoot, Boot: b}, files...)
	return err
}

// handle serves what the cell says of its own accord. It is called by one goroutine.
func (c *Cell) handle(m message) error {
	switch m.Kind {
	case kindConfined:
		// Once it is confined, others read the list.
		if c.process.confined || !c.link.waits(confineID) {
			return errors.New("it says again how it is confined")
		}
		c.process.confined = true
		c.confinement = append(c.confinement, m.Layers...)
		return nil
	case kindEnded:
		c.process.said = m.End
		// It is about to exit, when it has passed on what the guest sent last.
		time.AfterFunc(exitPatience, func() { _ = c.process.cmd.Process.Kill() })
		return nil
	case kindFlow, kindResolve, kindDenied:
		flows := c.flows.Load()
		if flows == nil {
			return errors.New("it has no network, and asks for one")
		}
		return flows.handle(m)
	}
	return fmt.Errorf("it sends a %q message", m.Kind)
}

// watch sees to the cell's end: whatever ends the conversation ends the process, and the other way
// round.
func (c *Cell) watch() {
	broken := c.link.serve()
	if c.process.said == nil {
		_ = c.process.kill()
	}
	c.process.wait()
	e := &EndError{Reason: ReasonProcess, Messages: c.messages.Lines(), Console: c.console.keep.Lines()}
	select {
	case <-c.closed:
		e.Reason = ReasonClosed
	default:
		switch said := c.process.said; {
		case c.group.killed(): // and what else it has said or done was cut short
			e.Reason = ReasonMemory
			e.Detail = fmt.Sprintf("the kernel has killed its process, which had used all that it may; its guest has %d MiB", c.cfg.MemoryMiB)
		case broken != nil:
			e.Detail = broken.Error()
		case said != nil:
			e.Reason, e.Detail = said.Reason, said.Detail
		default:
			e.Detail = c.process.how()
		}
	}
	c.end = e
	close(c.done)
}

// way is a way to start a cell's process.
type way struct {
	name       string
	attributes syscall.SysProcAttr
	namespaces string // that it gets
	users      bool   // a user namespace is among them
	mounts     bool   // a mount namespace is
	pids       bool   // a PID namespace is
	become     bool   // it starts as root and is to change its user itself
}

const allNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// ways lists the ways to start a process, the most confined first.
//
// The best one is a user namespace in which the process is root: so it can give itself an empty root
// directory, while what it is outside is a user that owns nothing, from its first instruction on.
func ways(id *identity.Identity) []way {
	base := syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	user := base
	user.Cloneflags = allNamespaces | unix.CLONE_NEWUSER
	outside := int(id.UID())
	group := outside
	if id == nil {
		group = os.Getegid()
	}
	user.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: outside, Size: 1}}
	user.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: group, Size: 1}}
	user.Credential = &syscall.Credential{NoSetGroups: id == nil}
	user.GidMappingsEnableSetgroups = id != nil
	list := []way{{
		name: "user namespace", attributes: user, users: true, mounts: true, pids: true,
		namespaces: "user, mount, PID, network, IPC, UTS, cgroup",
	}}
	bare := way{name: "no namespaces", attributes: base}
	if id != nil {
		root := base
		root.Cloneflags = allNamespaces
		list = append(list, way{
			name: "namespaces", attributes: root, mounts: true, pids: true, become: true,
			namespaces: "mount, PID, network, IPC, UTS, cgroup",
		})
		bare.become = true
	}
	return append(list, bare)
}

// refusable tells whether an error means that this host does not let this user start a process that
// way, so that the next way is to be tried.
func (w *way) refusable(err error) bool {
	for _, e := range []error{syscall.EPERM, syscall.EACCES, syscall.ENOSPC, syscall.EINVAL, syscall.EUSERS, syscall.ENOSYS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// layers describes what the way of starting has applied.
func (w *way) layers(id *identity.Identity, refused []string) Confinement {
	user := Layer{Name: LayerUser, Detail: "the caller's: only root can start a process as another user"}
	if id != nil {
		user = Layer{Name: LayerUser, Applied: true, Detail: fmt.Sprint(id.UID())}
	}
	why := strings.Join(refused, "; ")
	namespaces := Layer{Name: LayerNamespaces, Applied: w.namespaces != "", Detail: w.namespaces}
	switch {
	case w.namespaces == "":
		namespaces.Detail = why
	case why != "":
		namespaces.Detail += "; " + why
	}
	return Confinement{user, namespaces}
}
