package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/aethervm/aether/internal/guestagent"
	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/internal/oneshot"
	"github.com/aethervm/aether/sandbox"
)

// Labels of containers and of images that hold snapshots.
const (
	labelLease    = "aether.lease"     // ID of the owner's lease
	labelLeaseDir = "aether.lease.dir" // the lease's directory
	labelSandbox  = "aether.sandbox"   // ID of the sandbox
)

// Sandbox is one container. Exec and Files are those of the Runner: they go through the guest agent
// and not through the engine's archive API, because that one sees the container's layers and
// volumes but not what is mounted inside (/dev/shm, a tmpfs), sees nothing of a guest with a kernel
// of its own, and does not write a file whole or not at all.
type Sandbox struct {
	*oneshot.Runner

	id        string
	container string // the engine's ID
	eng       *engine
	driver    *Driver
	owner     *lease.Lease
	spec      sandbox.Spec
	origin    origin

	// life ends when Close begins; it interrupts calls in progress.
	life context.Context
	end  context.CancelCauseFunc

	removing sync.Mutex
	removed  atomic.Bool
}

// origin is what a sandbox was made from.
type origin struct {
	image    string // the engine's ID
	snapshot bool   // image is a snapshot's
}

var (
	_ sandbox.Sandbox     = (*Sandbox)(nil)
	_ sandbox.Pauser      = (*Sandbox)(nil)
	_ sandbox.Inspector   = (*Sandbox)(nil)
	_ sandbox.StatsReader = (*Sandbox)(nil)
)

// start makes a container and starts it. PID 1 is the agent, which needs no time to get ready: once
// the engine says that the container runs, it accepts programs.
func (d *Driver) start(ctx context.Context, eng *engine, owner *lease.Lease, spec sandbox.Spec, from origin) (sandbox.Sandbox, error) {
	agent, err := guestagent.Path()
	if err != nil {
		return nil, &sandbox.Error{Op: "create", System: system, Err: sandbox.ErrUnavailable, Detail: err.Error()}
	}
	if err := spec.RefuseEgressRules("create", system); err != nil {
		return nil, err
	}
	if spec.Network == sandbox.NetworkOutbound {
		if err := eng.checkOutbound(ctx); err != nil {
			return nil, err
		}
	}
	s := &Sandbox{id: lease.NewID(), eng: eng, driver: d, owner: owner, spec: spec, origin: from}
	s.life, s.end = context.WithCancelCause(context.Background())
	s.Runner = oneshot.New(system, s.id, sandbox.Environ(spec.Image.Env, spec.Env), s.run)

	options := s.containerOptions(agent, eng.runtime(d.opts))
	mark, err := markCreation(owner.Dir, s.id, from.image)
	if err != nil {
		return nil, &sandbox.Error{Op: "create", System: system, Err: sandbox.ErrUnavailable, Detail: err.Error()}
	}
	defer func() { _ = os.Remove(mark) }()
	work, release := sheltered(ctx)
	defer release()
	created, err := eng.cli.ContainerCreate(work, options)
	if errdefs.IsNotFound(err) && !from.snapshot && ctx.Err() == nil && strings.Contains(err.Error(), "No such image") {
		// Somebody has removed the engine's copy.
		eng.forgetImage(spec.Image.Digest)
		if options.Config.Image, err = eng.importImage(ctx, spec.Image); err == nil {
			s.origin.image = options.Config.Image
			created, err = eng.cli.ContainerCreate(work, options)
		}
	}
	s.container = created.ID
	if err == nil && ctx.Err() == nil {
		_, err = eng.cli.ContainerStart(work, s.container, client.ContainerStartOptions{})
	}
	if err == nil && ctx.Err() == nil {
		err = d.register(s)
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		if eng.seesFiles(eng.runtime(d.opts)) {
			return &snapshotting{s}, nil
		}
		return s, nil
	}
	d.unregister(s)
	// By name: where the connection broke, the container may exist without our knowing its ID.
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	err = eng.fail(ctx, "create", s.id, err)
	if undoErr := eng.remove(undo, containerName(s.id)); undoErr != nil && !client.IsErrConnectionFailed(undoErr) {
		err = errors.Join(err, eng.fail(undo, "undo create", s.id, undoErr))
	}
	return nil, err
}

// agentProcesses is added to the limit of processes for the guest agent, whose threads count too: it
// is PID 1 and runs once beside each program.
const agentProcesses = 64

func containerName(id string) string { return "aether-" + id }

func (s *Sandbox) containerOptions(agent, runtime string) client.ContainerCreateOptions {
	memory := int64(s.spec.MemoryMiB) << 20
	pids := int64(s.spec.Processes) + agentProcesses
	// More CPUs than the engine has is an error for the engine, and no limit at all for us.
	cpus := int64(s.spec.VCPUs)
	if n := int64(s.eng.info.NCPU); n > 0 {
		cpus = min(cpus, n)
	}
	network := container.NetworkMode("none")
	if s.spec.Network == sandbox.NetworkOutbound {
		network = "bridge"
	}
	agentIsInit := false
	return client.ContainerCreateOptions{
		Name: containerName(s.id),
		Config: &container.Config{
			Image:      s.origin.image,
			Hostname:   s.id,
			Entrypoint: []string{guestagent.Mount},
			Cmd:        []string{"park"},
			User:       "0:0",
			WorkingDir: "/",
			Labels: map[string]string{
				labelSandbox:  s.id,
				labelLease:    s.owner.ID,
				labelLeaseDir: s.owner.Dir,
			},
		},
		HostConfig: &container.HostConfig{
			Runtime:     runtime,
			NetworkMode: network,
			Init:        &agentIsInit,
			SecurityOpt: []string{"no-new-privileges"},
			LogConfig:   container.LogConfig{Type: "none"},
			Mounts: []mount.Mount{{
				Type: mount.TypeBind, Source: agent, Target: guestagent.Mount, ReadOnly: true,
			}},
			Resources: container.Resources{
				Memory:     memory,
				MemorySwap: memory, // the sum of both: no swap
				NanoCPUs:   cpus * 1e9,
				PidsLimit:  &pids,
			},
		},
	}
}

// checkOutbound tells whether the engine has its ordinary outbound network.
func (e *engine) checkOutbound(ctx context.Context) error {
	_, err := e.cli.NetworkInspect(ctx, "bridge", client.NetworkInspectOptions{})
	if errdefs.IsNotFound(err) {
		return &sandbox.Error{Op: "create", System: system, Err: sandbox.ErrUnsupported,
			Detail: "this engine has no bridge network",
			Remedy: "set DOCKER_HOST to an engine that was started without --bridge=none"}
	}
	return e.fail(ctx, "create", "", err)
}

// ID is Sandbox.ID.
func (s *Sandbox) ID() string { return s.id }

// Close is Sandbox.Close. After a failure it may be called again.
func (s *Sandbox) Close() error {
	s.end(sandbox.Closed("use", system, s.id))
	s.removing.Lock()
	defer s.removing.Unlock()
	if s.removed.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	if err := s.eng.remove(ctx, s.container); err != nil {
		return s.eng.fail(ctx, "close", s.id, err)
	}
	s.removed.Store(true)
	s.driver.unregister(s)
	if s.origin.snapshot {
		// The snapshot may have been removed while this sandbox kept its image in use.
		return s.eng.fail(ctx, "close", s.id, s.eng.removeIfUntagged(ctx, s.origin.image))
	}
	return nil
}

// remove kills and removes a container, by ID or name, and returns when it is gone. One that does not
// exist is no error.
func (e *engine) remove(ctx context.Context, name string) error {
	for {
		_, err := e.cli.ContainerRemove(ctx, name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		switch {
		case errdefs.IsNotFound(err):
			return nil
		case errdefs.IsConflict(err) && strings.Contains(err.Error(), "already in progress"):
			// Somebody else removes it; it counts when it is done.
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("container %s: still being removed: %w", name, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// enter opens a call on the sandbox: it returns a context that ends with the sandbox.
func (s *Sandbox) enter(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if err := context.Cause(s.life); err != nil {
		return nil, nil, err
	}
	ctx, stop := joined(ctx, s.life)
	return ctx, stop, nil
}

// fail is engine.fail for a call on the sandbox. If the container is not there any more, or does not
// run, the error says why.
func (s *Sandbox) fail(ctx context.Context, op string, err error) error {
	err = s.eng.fail(ctx, op, s.id, err)
	var typed *sandbox.Error
	if !errors.As(err, &typed) || errors.Is(err, sandbox.ErrClosed) || ctx.Err() != nil {
		return err
	}
	if why := s.obituary(ctx); why != "" {
		return &sandbox.Error{Op: op, System: system, Sandbox: s.id, Err: sandbox.ErrDead, Detail: why}
	}
	return err
}

// obituary says how the container ended; it is empty for one that lives.
func (s *Sandbox) obituary(ctx context.Context) string {
	found, err := s.eng.cli.ContainerInspect(ctx, s.container, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return "the container was removed from outside"
	}
	if err != nil || found.Container.State == nil || found.Container.State.Running {
		return ""
	}
	state := found.Container.State
	why := fmt.Sprintf("the container's first process ended with exit code %d", state.ExitCode)
	if state.OOMKilled {
		why = "the kernel killed the container's processes at its memory limit"
	}
	if state.Error != "" {
		why += ": " + state.Error
	}
	return why
}
