package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guest/pid1"
)

// runInit is PID 1 of a virtual machine. With "trial" it only says that it has come up, and ends
// the machine: the host wants to know whether the kernel runs.
func runInit(args []string) int {
	if len(args) == 1 && args[0] == "trial" {
		fmt.Println("aether-agent: alive")
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		return exitFailure
	}
	fmt.Fprintln(os.Stderr, "aether-agent:", pid1.Run())
	return exitFailure
}
