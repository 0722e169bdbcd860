package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/sandbox"
)

// The exit codes of aether. newExitCodes tells users about them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnavailable = 3
	exitNotFound    = 4
	exitPartly      = 5
	exitTrouble     = 2   // diff only, where exitFailed says that files differ
	exitTimeout     = 124 // run and exec only: --timeout ran out, as timeout(1) says it
	exitOwnFailure  = 125 // run and exec only: aether failed, not the program
	exitCannotRun   = 126 // run and exec only
	exitNoProgram   = 127 // run and exec only
	exitSignal      = 128 // plus the signal's number
)

// newEnvironment is a help topic.
func newEnvironment() *cobra.Command {
	return &cobra.Command{
		Use:   "environment",
		Short: "Which variables of the environment aether reads",
		Long: `Variables of the environment that aether reads:

  AETHER_STATE    directory of what lasts: images, kernels, templates, the lab, the server's state
                  (default: /var/lib/aether for root, else aether in the user's cache directory)
  AETHER_RUN      directory of what ends with its process: sockets, locks, mounts
                  (default: /run/aether for root, else $XDG_RUNTIME_DIR/aether or /tmp/aether-UID)
  AETHER_SERVER   server that commands ask, http://HOST:PORT, https://HOST:PORT or unix:PATH
                  (default: the socket below AETHER_RUN on which "aether serve" listens)
  AETHER_TOKEN    token of a tenant, for a server that asks for one
  AETHER_KERNEL   guest kernel of AetherVM and QEMU ("aether kernel --help")
  AETHER_RUNSC    runsc to use for gVisor (default: what make peers has built, else that on the PATH)
  AETHER_GVISOR_PLATFORM
                  platform of gVisor: systrap, kvm or ptrace (default: the first that works)
  AETHER_AGENT    guest agent to use in place of the one that aether carries inside
  DOCKER_HOST     Docker engine to use

Directories are absolute paths. Programs in a sandbox find

  AETHER_FORK     in the commands of "fork", "branch" and "template run -n": the number of the copy,
                  from 0`,
	}
}

func newExitCodes() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit status says",
		Long: `Exit codes of aether:

  0    done
  1    failed; the message on standard error says at what
  2    usage: unknown command, flag, system, axis or weights
  3    not available on this host: no such system here; the message says why
  4    not found: no such directory, results or image
  5    partly: some of the systems, or of the copies, failed, the others are done
  130  interrupted by Ctrl-C (143 by SIGTERM, 129 by SIGHUP); what was made is removed
  141  nobody reads the output any more

"aether diff" exits with 1 if files differ, as diff(1) does, and with 2 or more if it failed.

"aether run", "aether exec", "aether template run", "aether lab run" and "aether attach" pass on the
exit code of the program. Their own are those that users of docker run expect:

  124  the program ran longer than --timeout
  125  aether failed, not the program
  126  the program exists but cannot be run
  127  there is no such program in the sandbox
  128+n  signal n ended the program

With --json, errors are one JSON object on standard error:

  {"error": {"kind": "usage", "message": "...", "remedy": "..."}}

The kinds are failed, usage, unavailable, not-found, partly and interrupted.`,
	}
}

// failure is how a command fails: what is printed, and the exit code.
type failure struct {
	code    int
	kind    string
	message string
	remedy  string // one line, what the user can do; may be empty
	quiet   bool   // nothing is printed
	copies  bool   // it is about the programs in several copies, whose codes cannot all be passed on
	err     error  // wrapped, may be nil
}

func (f *failure) Error() string {
	if f.message == "" && f.err != nil {
		return f.err.Error()
	}
	return f.message
}

func (f *failure) Unwrap() error { return f.err }

func usageError(remedy, format string, args ...any) error {
	return &failure{code: exitUsage, kind: "usage", message: fmt.Sprintf(format, args...), remedy: remedy}
}

func notFound(err error, remedy, format string, args ...any) error {
	return &failure{code: exitNotFound, kind: "not-found", message: fmt.Sprintf(format, args...), remedy: remedy, err: err}
}

func unavailable(remedy, format string, args ...any) error {
	return &failure{code: exitUnavailable, kind: "unavailable", message: fmt.Sprintf(format, args...), remedy: remedy}
}

// failed wraps err and adds a remedy.
func failed(err error, remedy, format string, args ...any) error {
	return &failure{code: exitFailed, kind: "failed", message: fmt.Sprintf(format, args...), remedy: remedy, err: err}
}

// exitWith ends the program with the exit code of a guest's program and prints nothing.
func exitWith(code int) error { return &failure{code: code, kind: "exit", quiet: true} }

// diagnose turns any error into what is printed and the exit code.
func diagnose(err error) *failure {
	if f := (*failure)(nil); errors.As(err, &f) {
		return f
	}
	f := &failure{code: exitFailed, kind: "failed", message: err.Error(), err: err}
	if e := (*sandbox.Error)(nil); errors.As(err, &e) && e.Remedy != "" {
		// The remedy has a line of its own: take it out of the message, where Error put it.
		f.message = strings.TrimSuffix(strings.Replace(f.message, " ("+e.Remedy+")", "", 1), ": ")
		f.remedy = e.Remedy
	}
	remedy := func(s string) {
		if f.remedy == "" {
			f.remedy = s
		}
	}
	var sig signalError
	switch {
	case errors.As(err, &sig):
		f.code, f.kind = exitSignal+int(sig.signal), "interrupted"
		remedy(sig.remedy)
	case errors.Is(err, context.Canceled):
		f.code, f.kind = exitSignal+int(syscall.SIGINT), "interrupted"
	case outputGone(err):
		f.code, f.quiet = exitSignal+int(syscall.SIGPIPE), true
	case errors.Is(err, sandbox.ErrUnavailable), errors.Is(err, sandbox.ErrUnsupported):
		f.code, f.kind = exitUnavailable, "unavailable"
		remedy("`aether doctor` lists what this host has")
	case errors.Is(err, sandbox.ErrInvalid):
		f.code, f.kind = exitUsage, "usage"
	case remedyOfFiles(err) != "":
		remedy(remedyOfFiles(err))
	case errors.Is(err, fs.ErrNotExist):
		f.code, f.kind = exitNotFound, "not-found"
	}
	return f
}

// remedyOfFiles is what to do about a file or directory that could not be made or written; "" for other errors.
func remedyOfFiles(err error) string {
	switch {
	case errors.Is(err, sandbox.ErrNoSpace), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "free disk space or memory, or keep images elsewhere with AETHER_STATE"
	case errors.Is(err, syscall.EROFS):
		return "the file system is read-only: choose another directory"
	case errors.Is(err, fs.ErrPermission):
		return "run aether as root, or choose a directory that you may write to"
	}
	return ""
}

// outputGone tells whether err says that nobody reads standard output any more. A connection that is broken, that to an
// engine for one, says the same of itself.
func outputGone(err error) bool {
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return false
	}
	return errors.Is(err, syscall.EPIPE)
}

// forExec gives f the exit code that commands have for it which pass on that of a program.
func (f *failure) forExec() *failure {
	g := *f
	var sig signalError
	switch {
	case f.kind == "exit", f.kind == "interrupted", f.quiet, f.copies, f.code == exitTimeout, errors.As(f.err, &sig):
	case errors.Is(f.err, sandbox.ErrCannotRun):
		g.code = exitNoProgram
		// Agents in the guest say why in the words of the guest's kernel only.
		if text := f.err.Error(); strings.Contains(text, "permission denied") || strings.Contains(text, "exec format error") {
			g.code = exitCannotRun
		}
	default:
		g.code = exitOwnFailure
	}
	return &g
}

// print writes f as one line and a line with the remedy, or as a JSON object.
func (f *failure) print(w io.Writer, asJSON bool) {
	if f.quiet {
		return
	}
	// An error of Write has nobody left to be told about.
	if asJSON {
		type body struct {
			Kind    string `json:"kind"`
			Message string `json:"message"`
			Remedy  string `json:"remedy,omitempty"`
		}
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(map[string]body{"error": {f.kind, f.Error(), f.remedy}})
		return
	}
	message := oneLine(f.Error())
	if !strings.HasPrefix(message, "aether ") && !strings.HasPrefix(message, "aether: ") { // names the command already
		message = "aether: " + message
	}
	_, _ = fmt.Fprintln(w, message)
	if f.remedy != "" {
		_, _ = fmt.Fprintf(w, "  hint: %s\n", oneLine(f.remedy))
	}
}

// oneLine makes text fit for a terminal: one line, no control characters.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}

// wantsJSON tells whether --json stands among aether's own arguments. It looks at the raw arguments
// since an error of usage comes before flags are known.
func wantsJSON(args []string) bool {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	return slices.ContainsFunc(args, func(s string) bool {
		return s == "--json" || strings.HasPrefix(s, "--json=") && s != "--json=false"
	})
}
