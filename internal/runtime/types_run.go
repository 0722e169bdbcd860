package runtime

import (
	"io"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// RunRequest is what Run takes: Shell or Args, not both.
type RunRequest struct {
	// Sandbox is where to run it; empty means one made for this call, from Ephemeral, and killed when
	// the program ends.
	Sandbox   string      `json:"sandbox,omitempty"`
	Ephemeral SandboxSpec `json:"ephemeral,omitzero"`
	// Shell is a command line for /bin/sh.
	Shell string `json:"shell,omitempty"`
	// Args is a program and its arguments, run without a shell.
	Args []string `json:"args,omitempty"`
	// Dir is the working directory, absolute; empty means "/".
	Dir string   `json:"dir,omitempty"`
	Env []string `json:"env,omitempty"` // KEY=value
	// Timeout kills the program, with its descendants, when it has run so long; 0 is never.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Background returns at once with a process. Its standard input is open until WriteStdin closes it.
	Background bool `json:"background,omitempty"`
	// Input is the standard input of a foreground program, and the first of a background one.
	Input string `json:"input,omitempty"`
	// Terminal, if not nil, gives the program a terminal, of sandbox.Cmd's kind: all output is Stdout then.
	Terminal *Terminal `json:"terminal,omitempty"`
	// Key makes the call idempotent, as in CreateRequest.
	Key string `json:"-"`

	// Progress, if set, gets the output of a foreground program as it comes, in calls one after the
	// other. The program waits while it works.
	Progress func(Progress) `json:"-"`
	// Stdin, Stdout and Stderr, if set, are the streams of a foreground program, for a caller in this
	// process. What goes to Stdout or Stderr is not in the result. Stdin excludes Input.
	Stdin  io.Reader `json:"-"`
	Stdout io.Writer `json:"-"`
	Stderr io.Writer `json:"-"`
}

// Stream is one of the two outputs of a program.
type Stream string

// The streams.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// Progress is a piece of output.
type Progress struct {
	Sandbox string
	Stream  Stream
	// Data is valid during the call only.
	Data []byte
	// Total is how many bytes there have been of both streams, with these.
	Total int64
}

// RunResult is what Run returns.
type RunResult struct {
	// Sandbox is where it ran. With Ephemeral true it is gone, or goes when the process ends.
	Sandbox   string `json:"sandbox"`
	Ephemeral bool   `json:"ephemeral,omitempty"`
	// ExitCode is -1 if a signal ended the program. Nil for a background process.
	ExitCode *int `json:"exit_code,omitempty"`
	// Signal is the name of the signal that ended it, such as "SIGKILL".
	Signal   string `json:"signal,omitempty"`
	TimedOut bool   `json:"timed_out,omitempty"`
	// Stdout and Stderr are valid UTF-8. If they were too long, head and tail are shown with a line
	// between them that says how much is left out.
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
	// Truncated tells that something was left out; Output then is the handle to all of it.
	Truncated   bool   `json:"truncated,omitempty"`
	Output      string `json:"output,omitempty"`
	StdoutBytes int64  `json:"stdout_bytes,omitempty"` // with Truncated
	StderrBytes int64  `json:"stderr_bytes,omitempty"`
	// Process is the handle of a background process.
	Process    string `json:"process,omitempty"`
	DurationMS int64  `json:"duration_ms"`
}

// ProcessInfo describes a background process.
type ProcessInfo struct {
	ID      string `json:"id"`
	Sandbox string `json:"sandbox"`
	// Command is what it runs, cut off at 256 bytes.
	Command string `json:"command"`
	Running bool   `json:"running"`
	// Terminal is the size of its terminal; nil if it has none.
	Terminal *sandbox.TerminalSize `json:"terminal,omitempty"`
	Started  time.Time             `json:"started"`
	// ExitCode, Signal and TimedOut are as in RunResult, and Error says why it ended with neither:
	// its sandbox was killed, say.
	ExitCode    *int   `json:"exit_code,omitempty"`
	Signal      string `json:"signal,omitempty"`
	TimedOut    bool   `json:"timed_out,omitempty"`
	Error       *Error `json:"error,omitempty"`
	StdoutBytes int64  `json:"stdout_bytes"`
	StderrBytes int64  `json:"stderr_bytes"`
	DurationMS  int64  `json:"duration_ms"`
}

// PollRequest is what Poll takes.
type PollRequest struct {
	Process string `json:"process"`
	// Stdout and Stderr are the offsets from which output is wanted: those of the last PollResult.
	Stdout int64 `json:"stdout,omitempty"`
	Stderr int64 `json:"stderr,omitempty"`
	// Max bounds the bytes of each stream; 0 means Limits.OutputShown, which is the most.
	Max int `json:"max,omitempty"`
	// Wait is how long to wait for more output or the end if there is none yet; 0 is not at all.
	Wait time.Duration `json:"wait,omitempty"`
}

// PollResult is what Poll returns.
type PollResult struct {
	ProcessInfo
	Stdout OutputChunk `json:"stdout"`
	Stderr OutputChunk `json:"stderr"`
}

// OutputRequest is what Output takes.
type OutputRequest struct {
	// Output is the handle of a result that was truncated, or of a process.
	Output string `json:"output"`
	Stream Stream `json:"stream,omitempty"` // empty means stdout
	// Offset is in bytes from the beginning; negative, from the end.
	Offset int64 `json:"offset,omitempty"`
	// Max bounds the bytes; 0 means Limits.OutputShown, which is the most.
	Max int `json:"max,omitempty"`
}

// OutputChunk is a piece of a stream.
type OutputChunk struct {
	Text string `json:"text"`
	// Encoding is empty for UTF-8, or "base64".
	Encoding string `json:"encoding,omitempty"`
	// Offset is where the text begins; Next, where to read on. Skipped bytes before Offset were asked
	// for and are no longer kept.
	Offset  int64 `json:"offset"`
	Next    int64 `json:"next"`
	Skipped int64 `json:"skipped,omitempty"`
	// Total is the length of the stream so far; End tells that there is nothing after Next and there
	// will not be.
	Total int64 `json:"total"`
	End   bool  `json:"end,omitempty"`
}

// StdinRequest is what WriteStdin takes.
type StdinRequest struct {
	Process string `json:"process"`
	Data    string `json:"data,omitempty"`
	// Close ends the standard input after Data.
	Close bool `json:"close,omitempty"`
}

// SignalRequest is what Signal takes.
type SignalRequest struct {
	Process string `json:"process"`
	// Signal is a name such as "SIGTERM" or "TERM", or a number. KILL ends the process with all its
	// descendants; others go to its process group.
	Signal string `json:"signal"`
}

// Language of a kept interpreter.
type Language string

// The languages.
const (
	Python Language = "python"
	Node   Language = "node"
)

// CodeRequest is what Code takes.
type CodeRequest struct {
	// Sandbox and Ephemeral are as in RunRequest. What the code defines stays in the sandbox.
	Sandbox   string      `json:"sandbox,omitempty"`
	Ephemeral SandboxSpec `json:"ephemeral,omitzero"`
	// Language is empty for Python.
	Language Language `json:"language,omitempty"`
	Code     string   `json:"code"`
	// Timeout interrupts the code when it has run so long; if it does not stop then, the interpreter
	// is ended, and what it held is lost. 0 is never.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Restart begins with a fresh interpreter.
	Restart bool `json:"restart,omitempty"`

	Progress func(Progress) `json:"-"`
}

// CodeResult is what Code returns. Code that raised an exception is a result, not an error.
type CodeResult struct {
	Sandbox   string `json:"sandbox"`
	Ephemeral bool   `json:"ephemeral,omitempty"`
	Stdout    string `json:"stdout"` // as in RunResult
	Stderr    string `json:"stderr"`
	Truncated bool   `json:"truncated,omitempty"`
	Output    string `json:"output,omitempty"`
	// Value is how the language prints the value of the last expression; empty if there is none.
	Value string `json:"value,omitempty"`
	// Error is the exception that ended the code.
	Error *CodeError `json:"error,omitempty"`
	// Fresh tells that the interpreter was started for this call: there was no state.
	Fresh bool `json:"fresh,omitempty"`
	// Lost says why the state of former calls is gone: the interpreter was ended or ended itself.
	Lost       string `json:"lost,omitempty"`
	TimedOut   bool   `json:"timed_out,omitempty"`
	DurationMS int64  `json:"duration_ms"`
}

// CodeError is an exception.
type CodeError struct {
	Name      string `json:"name"`
	Message   string `json:"message"`
	Traceback string `json:"traceback"`
}

// ReadRequest is what Read takes.
type ReadRequest struct {
	// Sandbox may be empty for a look at what an image holds: Ephemeral is then made and killed.
	Sandbox   string      `json:"sandbox,omitempty"`
	Ephemeral SandboxSpec `json:"ephemeral,omitzero"`
	// Path is absolute. A directory is listed.
	Path string `json:"path"`
	// Offset and Max are bytes of a file, or entries of a directory. Offset negative counts from the
	// end of a file; Max 0 means Limits.ReadSize, or 1000 entries, which is the most.
	Offset int64 `json:"offset,omitempty"`
	Max    int   `json:"max,omitempty"`
}

// ReadResult is what Read returns: Text of a file or Entries of a directory.
type ReadResult struct {
	Sandbox string `json:"sandbox"`
	Path    string `json:"path"`
	Dir     bool   `json:"dir,omitempty"`
	// Size is that of the file in bytes, or the number of entries.
	Size int64  `json:"size"`
	Mode string `json:"mode"` // as ls shows it
	Text string `json:"text,omitempty"`
	// Encoding is empty for UTF-8, or "base64".
	Encoding string `json:"encoding,omitempty"`
	Offset   int64  `json:"offset"`
	// Next is where to read on; nil at the end.
	Next    *int64  `json:"next,omitempty"`
	Entries []Entry `json:"entries,omitempty"`
}

// Entry is one of a directory.
type Entry struct {
	Name     string    `json:"name"`
	Type     string    `json:"type"` // "file", "dir", "link" or "other"
	Size     int64     `json:"size"`
	Mode     string    `json:"mode"`
	Modified time.Time `json:"modified"`
	Target   string    `json:"target,omitempty"` // of a link
}

// WriteRequest is what Write takes: Text for the whole file, or Edits.
type WriteRequest struct {
	Sandbox string `json:"sandbox"`
	Path    string `json:"path"`
	// Text is the whole file, Encoding empty for UTF-8 or "base64". Missing directories are made.
	Text     string `json:"text,omitempty"`
	Encoding string `json:"encoding,omitempty"`
	// Mode holds permission bits; 0 means 0644, or those that the file has.
	Mode uint32 `json:"mode,omitempty"`
	// Edits change a file that exists, one after the other, all or none.
	Edits []Edit `json:"edits,omitempty"`
}

// Edit replaces text.
type Edit struct {
	// Old is to be found exactly once, or with All at least once.
	Old string `json:"old"`
	New string `json:"new"`
	All bool   `json:"all,omitempty"`
}

// WriteResult is what Write returns.
type WriteResult struct {
	Sandbox string `json:"sandbox"`
	Path    string `json:"path"`
	Size    int64  `json:"size"`
	// Replaced is how many places the edits changed; Line is that of the first, from 1.
	Replaced int `json:"replaced,omitempty"`
	Line     int `json:"line,omitempty"`
}
