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
	firstFile   = 5
)

// exitPatience is how long a process may live that has said that its guest has ended.
const exitPatience = 2 * time.Second

func (c *Cell) start(ctx context.Context) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.flows, err = newFlows(c.cfg.Network); err != nil {
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
	if c.flows != nil {
		c.flows.link = c.link
	}
	source, release, err := c.source()
	if err != nil {
		return errors.Join(err, theirs.Close())
	}
	defer release()
	files := append([]*os.File{theirs, c.cfg.Program, device}, source...)
	files = append(files, c.cfg.Disks...)

	group, groupErr := newGroup(c.cfg.ID, c.cfg.VCPUs, c.cfg.MemoryMiB)
	c.group = group
	begun, err := c.begin(files)
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
	return c.boot(ctx)
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
	c.layers = len(files) - 1
	for _, f := range files[1:] {
		id, _, err := layerSize(f)
		if err != nil {
			c.cfg.From.release()
			return nil, nil, err
		}
		c.known[id], c.given[id] = true, true // somebody else is charged for it
	}
	return files, c.cfg.From.release, nil
}

// begin starts the process, as confined as this host lets this user start one.
func (c *Cell) begin(files []*os.File) (Confinement, error) {
	var refused []string
	for _, w := range ways(c.identity) {
		if c.trial.way != "" && c.trial.way != w.name {
			continue
		}
		p, err := begin(w.attributes, files, c.cfg.VCPUs, c.console, c.cfg.Console, c.messages)
		if err != nil {
			refused = append(refused, fmt.Sprintf("%s: %v", w.name, err))
			if !w.refusable(err) {
				break
			}
			continue
		}
		p.way = w
		c.process = p
		return w.layers(c.identity, refused), nil
	}
	return nil, errors.New(strings.Join(refused, "; "))
}

// buildPatience is how long a process may take to confine itself and to build its machine. It takes tens of
// milliseconds, and a second or two where KVM is emulated.
const buildPatience = time.Minute

// boot tells the process what to build and waits until the guest runs.
func (c *Cell) boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, buildPatience, fmt.Errorf("it has not built its machine in %v", buildPatience))
	defer cancel()
	filter, err := filterFor(c.process.ownPID())
	if err != nil {
		return err
	}
	if c.trial.unfiltered {
		filter = nil
	}
	b := &bootMessage{
		Version: protocolVersion, Branch: c.cfg.From != nil, Layers: c.layers, Initramfs: c.cfg.Initramfs != nil, Disks: len(c.cfg.Disks), Cmdline: c.cfg.Cmdline,
		VCPUs: c.cfg.VCPUs, MemoryMiB: c.cfg.MemoryMiB, Network: c.flows.part(),
		OwnUser: c.identity != nil, Mounts: c.process.way.mounts, UserNamespace: c.process.way.users, Filter: filter, Attempt: c.trial.attempt,
	}
	if c.process.way.become {
		b.User = c.identity.UID()
	}
	_, err = c.call(ctx, message{Kind: kindBoot, Boot: b}, nil)
	return err
}

// handle serves what the cell says of its own accord. It is called by one goroutine.
func (c *Cell) handle(m message) error {
	switch m.Kind {
	case kindConfined:
		// Once it has booted, others read the list.
		if c.process.confined || !c.link.waits(bootID) {
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
		if c.flows == nil {
			return errors.New("it has no network, and asks for one")
		}
		return c.flows.handle(m)
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
	<-c.process.exited
	e := &EndError{Reason: ReasonProcess, Messages: c.messages.Lines(), Console: c.console.Lines()}
	select {
	case <-c.closed:
		e.Reason = ReasonClosed
	default:
		switch said := c.process.said; {
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
