package cell

import (
	"context"
	"errors"
	"fmt"
	"io"
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

const (
	// exitPatience is how long a process may live that has said that its guest has ended.
	exitPatience = 2 * time.Second
	// leavePatience is how long a process that others share may take to let go of one guest. Their cells end with it if it
	// does not.
	leavePatience = 20 * time.Second
)

// patience is how long the process may take from when it has said that a guest has ended.
func (p *process) patience() time.Duration {
	if p.places > 0 {
		return leavePatience
	}
	return exitPatience
}

// begin starts the process and waits until it has confined itself. handle gets what it says of its own accord, and running is
// called when it runs, to have its link served until it is no more, and the process reaped. output is as in run.
func (p *process) begin(ctx context.Context, output io.Writer, handle func(message) error, running func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	device, err := os.OpenFile(kvm.Device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: is KVM there, and may this user use it?", err)
	}
	defer func() { _ = device.Close() }()
	if p.identity, err = identity.Take(); err != nil {
		return err
	}
	ours, theirs, err := packetPair()
	if err != nil {
		return err
	}
	p.link = newLink(ours, handle)
	group, groupErr := newGroup(p.id, p.vcpus, p.memoryMiB, p.places)
	p.group = group
	begun, err := p.execute([]*os.File{theirs, p.program, device}, output)
	// The process has it now. Were it still open here, its death would not end the connection.
	_ = theirs.Close()
	if err != nil {
		return err
	}
	if group != nil && groupErr == nil {
		groupErr = group.join(p.pid)
	}
	p.confinement = append(begun, layer(LayerCgroup, group.describe(), groupErr))
	running()
	if scarce(groupErr) {
		return fmt.Errorf("make a control group: %w", groupErr)
	}
	return p.confine(ctx)
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

// execute runs the process, as confined as this host lets this user start one.
func (p *process) execute(files []*os.File, output io.Writer) (Confinement, error) {
	var refused []string
	var last error
	for _, w := range ways(p.identity) {
		if p.trial.way != "" && p.trial.way != w.name {
			continue
		}
		if err := p.run(w.attributes, files, output); err != nil {
			refused = append(refused, fmt.Sprintf("%s: %v", w.name, err))
			last = err
			if !w.refusable(err) {
				break
			}
			continue
		}
		p.way = w
		return w.layers(p.identity, refused), nil
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
func (p *process) confine(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, buildPatience, fmt.Errorf("it has not confined itself in %v", buildPatience))
	defer cancel()
	filter, err := filterFor(p.ownPID())
	if err != nil {
		return err
	}
	if p.trial.unfiltered {
		filter = nil
	}
	m := &confineMessage{
		Version: protocolVersion, VCPUs: p.vcpus, MemoryMiB: p.memoryMiB, Places: p.places,
		OwnUser: p.identity != nil, Mounts: p.way.mounts, UserNamespace: p.way.users, Filter: filter, Attempt: p.trial.attempt,
	}
	if p.way.become {
		m.User = p.identity.UID()
	}
	_, err = p.link.call(ctx, message{Kind: kindConfine, Confine: m})
	if errors.Is(err, errLinkClosed) { // its end is near
		select {
		case <-p.ended:
			err = p.end()
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	return err
}

// sayConfined keeps how the process says that it has confined itself. It is called by who serves the process's link.
func (p *process) sayConfined(m message) error {
	// Once it is confined, others read the list.
	if p.confined || !p.link.waits(confineID) {
		return errors.New("it says again how it is confined")
	}
	p.confined = true
	p.confinement = append(p.confinement, m.Layers...)
	return nil
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
		return c.process.sayConfined(m)
	case kindEnded:
		if c.said != nil {
			return errors.New("it says again how its guest has ended")
		}
		c.said = m.End
		// It is about to let go, when it has passed on what the guest sent last.
		c.patience = time.AfterFunc(c.process.patience(), func() {
			c.process.condemn(fmt.Errorf("it has not let go of guest %s, which has ended, for %v", c.cfg.ID, c.process.patience()))
		})
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

// watch sees to the cell's end: whatever ends the conversation ends the process, or this cell's part of it, and the other way
// round.
func (c *Cell) watch() {
	broken := c.link.serve()
	if c.process.places == 0 {
		switch {
		case broken != nil:
			c.process.condemn(broken)
		case c.said == nil:
			_ = c.process.kill()
		}
		c.process.reap()
	} else {
		c.awaitGone(broken)
	}
	if c.patience != nil {
		c.patience.Stop()
	}
	c.end = c.ending(broken)
	close(c.done)
}

// ending says how the cell has ended.
func (c *Cell) ending(broken error) *EndError {
	e := &EndError{Reason: ReasonProcess, Messages: c.process.messages.Lines()}
	if c.process.hasEnded() {
		e = c.process.end()
	}
	e.Console = c.console.keep.Lines()
	select {
	case <-c.closed:
		e.Reason, e.Detail = ReasonClosed, ""
		return e
	default:
	}
	switch {
	case e.Reason == ReasonMemory: // and what else it has said or done was cut short
	case broken != nil:
		e.Detail = broken.Error()
	case c.said != nil:
		e.Reason, e.Detail = c.said.Reason, c.said.Detail
	}
	return e
}

// end says how the process has ended.
func (p *process) end() *EndError {
	e := &EndError{Reason: ReasonProcess, Detail: p.how(), Messages: p.messages.Lines()}
	if p.group.killed() {
		e.Reason = ReasonMemory
		e.Detail = fmt.Sprintf("the kernel has killed its process, which had used all that it may; its guest has %d MiB", p.memoryMiB)
	}
	return e
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
