package vmm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/machine"
	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/net/usernet"
	"github.com/aethervm/aether/internal/virtio/vsock"
)

// VM is a virtual machine. Its methods may be called concurrently.
type VM struct {
	machine *machine.Machine
	memory  *guestmem.Memory
	socket  *vsock.Device
	gateway *usernet.Network // nil without a network card
	card    Interface
	boot    boot.CPU
	copied  bool // of a snapshot: it begins paused

	// For Branch.
	parts     []virtio.Device // all devices, in their order
	msrs      []uint32        // that are part of a processor's state
	pages     *guestmem.Pagemap
	branching sync.Mutex         // held while the state of everything is taken
	prefetch  []guestmem.Touched // of the snapshot that it is a copy of
	mapAhead  sync.Once

	life  context.Context // until the guest has ended
	watch sync.WaitGroup

	closing sync.Once
	closed  error
}

// New builds a VM with everything that its guest boots from in its memory. It does not run yet.
func New(cfg Config) (*VM, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	vm, err := build(&cfg)
	if err != nil {
		return nil, fmt.Errorf("make VM: %w", err)
	}
	vm.keepPages(cfg.Pages)
	return vm, nil
}

// Start lets the guest run. It can be called once.
func (vm *VM) Start() error {
	if vm.copied {
		return vm.resumeCopy()
	}
	return vm.machine.Start(vm.boot)
}

// Dial connects to a socket port of the guest. It waits until the guest has loaded its socket driver. A
// guest where nobody listens to the port refuses the connection: syscall.ECONNREFUSED. The
// connection has a CloseWrite method; it is reset when the guest ends, but what has been received can
// still be read. If the guest has ended, the error wraps ErrEnded.
func (vm *VM) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	dialing, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(vm.life, cancel)()
	conn, err := vm.socket.Dial(dialing, port)
	switch {
	case err == nil:
		return conn, nil
	case vm.life.Err() != nil:
		return nil, fmt.Errorf("dial port %d of the guest: %w", port, context.Cause(vm.life))
	case ctx.Err() != nil:
		return nil, fmt.Errorf("dial port %d of the guest: %w", port, context.Cause(ctx))
	}
	return nil, err
}

// Listen accepts the guest's connections to a socket port of its host, which has context ID 2.
func (vm *VM) Listen(port uint32) (net.Listener, error) { return vm.socket.Listen(port) }

// Interface returns the addresses of the guest's network card, for telling the guest. ok is false if it
// has none.
func (vm *VM) Interface() (_ Interface, ok bool) { return vm.card, vm.gateway != nil }

// Sent is how many bytes the guest has sent to its network card since the VM was made, headers included; 0 if it has none.
func (vm *VM) Sent() uint64 {
	if vm.gateway == nil {
		return 0
	}
	return vm.gateway.Sent()
}

// Pause stops the guest's processors and devices until the matching Resume; pauses nest. When it
// returns, the guest's memory does not change any more but by the host's hand. Data on its way to the
// guest waits. A copy whose snapshot says what copies use first has that mapped for its guest while it is paused for the
// first time, so that one that was made ahead finds it there.
func (vm *VM) Pause() {
	vm.machine.Pause()
	if len(vm.prefetch) > 0 {
		vm.mapAhead.Do(func() { go vm.machine.MapAhead(vm.prefetch) }) // Resume, and the end of the machine, end it
	}
}

// Resume ends a Pause.
func (vm *VM) Resume() { vm.machine.Resume() }

// Stop ends the guest at once, as pulling the plug does. It is idempotent.
func (vm *VM) Stop() { vm.machine.Stop() }

// Done is closed when the guest has ended.
func (vm *VM) Done() <-chan struct{} { return vm.machine.Done() }

// Wait waits until the guest has ended and returns how.
func (vm *VM) Wait(ctx context.Context) (End, error) {
	end, err := vm.machine.Wait(ctx)
	if err != nil {
		return End{}, err
	}
	return endOf(end), nil
}

// Console returns the last part of what the guest has written to its serial console.
func (vm *VM) Console() []byte { return vm.machine.Console() }

// SetGenerationID tells the guest that it is another machine now, which shares its past with others: a
// Linux with a vmgenid driver then reseeds its random number generator. The ID must be unique. A VM is
// born with a random one.
func (vm *VM) SetGenerationID(id [16]byte) error { return vm.machine.SetGenerationID(id) }

// Close ends the guest and frees all that the VM has. It is idempotent; every call returns when that is
// done. Connections and listeners are closed.
func (vm *VM) Close() error {
	vm.closing.Do(func() {
		errs := []error{vm.machine.Close()}
		vm.watch.Wait()
		vm.closed = errors.Join(append(errs, vm.free())...)
	})
	return vm.closed
}

// free gives back what is not the machine's.
func (vm *VM) free() error {
	var errs []error
	if vm.socket != nil {
		errs = append(errs, vm.socket.Close())
	}
	if vm.gateway != nil {
		errs = append(errs, vm.gateway.Close())
	}
	if vm.memory != nil {
		errs = append(errs, vm.memory.Close())
	}
	vm.branching.Lock()
	defer vm.branching.Unlock()
	if vm.pages != nil {
		errs = append(errs, vm.pages.Close())
	}
	return errors.Join(errs...)
}
