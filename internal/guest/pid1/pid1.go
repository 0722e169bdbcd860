// Package pid1 is the init process of a virtual machine: it turns an initramfs and a read-only disk
// into a running system and then serves the host over a port.
package pid1

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/aethervm/aether/internal/guest/serve"
)

// Channel is how the host reaches the agent.
type Channel interface {
	// beforeModule is called before each kernel module is loaded.
	beforeModule(name string) error
	// open is called when the machine has booted.
	open() error
	// serve serves the host. It returns only an error that would come again.
	serve(*serve.Server) error
}

// Run boots the machine and serves it. It returns only an error: when it does, the machine is of no
// use, and the kernel panics when PID 1 ends, which the host sees.
func Run(c Channel) error {
	if os.Getpid() != 1 {
		return errors.New("init: not PID 1 of a machine")
	}
	m, err := boot(c)
	if err == nil {
		err = c.open()
	}
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	go m.reaper.run()
	time.AfterFunc(lateDelay, func() {
		// The machine is of use without them; who needs one asks for it, and is told.
		if err := m.late.load(); err != nil {
			fmt.Fprintln(os.Stderr, "init:", err)
		}
	})
	return fmt.Errorf("init: %w", c.serve(&serve.Server{Machine: m, Tree: m.tree}))
}

// boot mounts everything and makes the machine that programs run on.
func boot(c Channel) (*machine, error) {
	if err := mountKernelFilesystems(); err != nil {
		return nil, err
	}
	if err := loadModules(moduleList, c.beforeModule); err != nil {
		return nil, err
	}
	late, err := openLateModules(lateList)
	if err != nil {
		return nil, err
	}
	changes, tree, err := switchRoot()
	if err != nil {
		return nil, err
	}
	if err := loopbackUp(); err != nil {
		return nil, err
	}
	groups, err := openCgroups()
	if err != nil {
		return nil, err
	}
	m := newMachine(groups, changes)
	m.tree = tree
	m.late = late
	return m, nil
}
