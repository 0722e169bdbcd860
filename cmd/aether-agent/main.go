// Command aether-agent is aether's part inside a sandbox.
//
// One static binary serves every system. In a container it is PID 1 (park) and is then run once for
// each program (exec) and each file operation (fs); in a virtual machine it is the init process
// that serves the host over a channel (init).
//
// It is started for every exec, so start-up counts: it has no flag library, and nothing runs before
// main.
package main

import (
	"fmt"
	"os"
)

// Exit codes of the agent itself. A program's own code passes through "exec" unchanged.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

const usage = `usage: aether-agent MODE ...

  park [--spawn]           be PID 1 of a container: collect orphans until SIGTERM; serve "spawn"
  exec --id ID [--timeout DURATION] [--dir DIR] [--terminal ROWSxCOLS] -- PROGRAM [ARG ...]
                           run a program so that it can be ended with all its descendants; with
                           a terminal, input is frames of agentproto
  spawn exec ...           as exec, by a supervisor that PID 1, "park --spawn", has started
  kill ID                  end the run ID with all its descendants
  status ID                print how the run ID ended, once, as JSON
  fs read|write|list|stat|remove PATH [PERM | OFFSET SIZE]
                           do a file operation; content on stdin/stdout, errors as JSON on stderr
  fs pack|unpack DIR       write a directory to stdout, or read one from stdin, as a tar stream
  tree [PATH ...]          answer a request about all files, with those that are mounted at PATHs; frames on stdin/stdout
  probe                    look at the sandbox from inside and print what was found, as JSON
  bomb KIND ...            put bounded load on the sandbox, for tests of its limits
  init                     be PID 1 of a virtual machine
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(exitUsage)
	}
	os.Exit(dispatch(os.Args[1], os.Args[2:]))
}

func dispatch(mode string, args []string) int {
	switch mode {
	case "park":
		return runPark(args)
	case "exec":
		return runExec(args)
	case "spawn":
		return runSpawn(args)
	case "supervise":
		return runSupervise()
	case "kill":
		return runKill(args)
	case "status":
		return runStatus(args)
	case "fs":
		return runFiles(args)
	case "tree":
		return runTree(args)
	case "probe":
		return runProbe(args)
	case "bomb":
		return runBomb(args)
	case "init":
		return runInit(args)
	}
	fmt.Fprint(os.Stderr, usage)
	return exitUsage
}
