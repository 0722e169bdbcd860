package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/guest/spawn"
)

// runPark is PID 1 of a container: it collects the orphans that the kernel hands to it, so that
// they do not pile up as zombies against the limit of processes, and ends on SIGTERM. With --spawn
// it also keeps supervisors for those who ask (package spawn).
func runPark(args []string) int {
	runtime.GOMAXPROCS(1) // what it does is little: threads that look for work would cost more
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT)
	if len(args) == 1 && args[0] == "--spawn" {
		l, err := spawn.Listen()
		if err != nil {
			fmt.Fprintln(os.Stderr, "aether-agent:", err)
			return exitFailure
		}
		go l.Serve([]string{os.Args[0], "supervise"}, []string{"GOMAXPROCS=1"})
	}
	for s := range signals {
		if s != unix.SIGCHLD {
			return exitOK
		}
		spawn.Reap() // all: signals of one kind merge
	}
	return exitOK
}
