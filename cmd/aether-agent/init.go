package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guest/pid1"
)

// runInit is PID 1 of a virtual machine. With "vsock" it serves its host over sockets, otherwise over a
// virtio-serial port. With "trial" it only says that it has come up, and ends the machine: the host
// wants to know whether the kernel runs.
func runInit(args []string) int {
	if len(args) == 1 && args[0] == "trial" {
		fmt.Println("aether-agent: alive")
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		return exitFailure
	}
	channel := pid1.Serial()
	if len(args) == 1 && args[0] == "vsock" {
		channel = pid1.Vsock()
	}
	fmt.Fprintln(os.Stderr, "aether-agent:", pid1.Run(channel))
	return exitFailure
}
