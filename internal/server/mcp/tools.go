package mcp

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/google/jsonschema-go/jsonschema"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/runtime"
)

// tool is an entry of the registry.
type tool struct {
	name, description string
	input, output     *jsonschema.Schema
	// reads tells that it changes nothing, additive that what was there stays, repeatable that to call it
	// twice is as to call it once.
	reads, additive, repeatable bool
	// call decodes the arguments, does the operation and builds the result.
	call func(ctx context.Context, c call, raw json.RawMessage) *sdk.CallToolResult
}

// call is what a tool gets besides its arguments.
type call struct {
	session *runtime.Session
	// progress is nil if the client did not ask for it.
	progress func(runtime.Progress)
}

// result is what a tool answers: structured content, the same as plain text, and links to the rest.
type result struct {
	structured any
	text       string
	links      []sdk.Content
}

// define makes a tool of a function. In and Out give the schemas.
func define[In, Out any](name, description string, f func(context.Context, call, In) (Out, result, error)) tool {
	t := tool{name: name, description: description, input: inputSchema[In](), output: outputSchema[Out]()}
	schema, err := t.input.Resolve(nil)
	if err != nil {
		panic(fmt.Sprintf("schema of %s: %v", name, err)) // it is ours, and a test builds them all
	}
	t.call = func(ctx context.Context, c call, raw json.RawMessage) *sdk.CallToolResult {
		in, err := arguments[In](schema, raw)
		if err != nil {
			return failure(&runtime.Error{Code: runtime.CodeInvalid, Op: name, Cause: err.Error(),
				Remedy: "call it again with arguments that fit its input schema"})
		}
		out, res, err := f(ctx, c, in)
		if err != nil {
			return failure(err)
		}
		if res.structured == nil {
			res.structured = out
		}
		return &sdk.CallToolResult{
			StructuredContent: res.structured,
			Content:           append([]sdk.Content{&sdk.TextContent{Text: res.text}}, res.links...),
		}
	}
	return t
}

func (t tool) reading() tool   { t.reads, t.additive, t.repeatable = true, true, true; return t }
func (t tool) adding() tool    { t.additive = true; return t }
func (t tool) repeating() tool { t.repeatable = true; return t }

// sdk is the tool as it is listed.
func (t tool) sdk() *sdk.Tool {
	annotations := &sdk.ToolAnnotations{ReadOnlyHint: t.reads, IdempotentHint: t.repeatable}
	if !t.reads {
		annotations.DestructiveHint = new(!t.additive)
	}
	input, err := json.Marshal(t.input) // the SDK would encode it anew for each call over HTTP
	if err != nil {
		panic(fmt.Sprintf("schema of %s: %v", t.name, err)) // it is ours, and a test builds them all
	}
	return &sdk.Tool{
		Name: t.name, Description: t.description,
		InputSchema: json.RawMessage(input), OutputSchema: t.output, Annotations: annotations,
	}
}

// shows keeps of the output schema those properties that an agent has a use for; a result may have more.
func (t tool) shows(names ...string) tool {
	maps.DeleteFunc(t.output.Properties, func(name string, _ *jsonschema.Schema) bool { return !slices.Contains(names, name) })
	t.output.PropertyOrder = names
	return t
}

// tools is the registry, in the order of an agent's work. It is made anew by each call, so nobody can
// change it for others.
func tools() []tool {
	return []tool{
		define("create", "Start an isolated Linux sandbox and keep it until kill. For a single command call run without one.",
			createSandbox).adding().shows("id", "system", "state", "kill_in_s", "expires_in_s"),
		define("run", "Run a shell command. Without sandbox, in a fresh one that is removed afterwards. "+
			"A non-zero exit_code is no error. Long output is cut in the middle: read(output) has the rest. "+
			"With background, returns a process at once.",
			runCommand).shows("sandbox", "exit_code", "signal", "timed_out", "stdout", "stderr", "output", "process", "duration_ms"),
		define("code", "Run code in an interpreter that keeps variables and imports between calls in the same sandbox. "+
			"value is that of the last expression, error an exception.",
			runCode).shows("sandbox", "stdout", "stderr", "output", "value", "error", "lost", "timed_out"),
		define("process", "Poll a background process, write to its stdin or signal it; then wait up to wait_s for output, "+
			"and return {text, next} of each stream from the given offsets.",
			driveProcess).shows("running", "exit_code", "signal", "stdout", "stderr"),
		define("read", "Read a file, list a directory, or read on in a long output, by range.",
			read).reading().shows("size", "text", "encoding", "next", "entries"),
		define("write", "Write a whole file (text), or replace exact text in one (edits, all or none). Missing directories are made.",
			write).shows("size", "replaced", "line"),
		define("fork", "Copy a running sandbox, to try alternatives side by side; optionally run a command in each child "+
			"($AETHER_FORK is its number). children are {sandbox, run, error}.",
			fork).adding(),
		define("snapshot", "save a sandbox, restore a snapshot as a new sandbox, rollback a sandbox to a snapshot, or remove a snapshot.",
			snapshot),
		define("list", "Your sandboxes, processes, snapshots, templates and budget.",
			list).reading(),
		define("kill", "End a sandbox; its files are lost.",
			kill).repeating(),
	}
}
