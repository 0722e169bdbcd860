package mcp

import (
	"context"
	"fmt"
	"strings"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/runtime"
)

type runArgs struct {
	Command    string   `json:"command" jsonschema:"for /bin/sh"`
	Sandbox    string   `json:"sandbox,omitempty"`
	Dir        string   `json:"dir,omitempty" jsonschema:"working directory"`
	Env        []string `json:"env,omitempty" jsonschema:"each KEY=value"`
	Stdin      string   `json:"stdin,omitempty"`
	TimeoutS   float64  `json:"timeout_s,omitempty" jsonschema:"default never"`
	Background bool     `json:"background,omitempty"`
	Key        string   `json:"key,omitempty" jsonschema:"done once, it is not repeated"`
}

func runCommand(ctx context.Context, c call, in runArgs) (out runtime.RunResult, res result, err error) {
	timeout, err := seconds("run", "timeout_s", in.TimeoutS)
	if err != nil {
		return out, res, err
	}
	out, err = c.session.Run(ctx, runtime.RunRequest{
		Sandbox: in.Sandbox, Shell: in.Command, Dir: in.Dir, Env: in.Env, Input: in.Stdin,
		Timeout: timeout, Background: in.Background, Key: in.Key, Progress: c.progress,
	})
	if err != nil {
		return out, res, err
	}
	return out, result{text: runText(out), links: outputLinks(out.Output, out.Truncated)}, nil
}

// runText is a result as a terminal would show it, with one line about the end.
func runText(r runtime.RunResult) string {
	var b strings.Builder
	streams(&b, r.Stdout, r.Stderr)
	switch {
	case r.Process != "":
		fmt.Fprintf(&b, "[process %s runs in sandbox %s]", r.Process, r.Sandbox)
	default:
		fmt.Fprintf(&b, "[%s, %d ms, sandbox %s%s]", ended(r.ExitCode, r.Signal, r.TimedOut), r.DurationMS, r.Sandbox, gone(r.Ephemeral))
	}
	more(&b, r.Output, r.Truncated)
	return b.String()
}

// streams writes what a program wrote, standard error marked as such.
func streams(b *strings.Builder, stdout, stderr string) {
	line := func(s string) {
		b.WriteString(s)
		if s != "" && !strings.HasSuffix(s, "\n") {
			b.WriteByte('\n')
		}
	}
	line(stdout)
	if stderr != "" {
		b.WriteString("[stderr]\n")
		line(stderr)
	}
}

func ended(code *int, signal string, timedOut bool) string {
	switch {
	case timedOut:
		return "timed out"
	case signal != "":
		return "ended by " + signal
	case code != nil:
		return fmt.Sprintf("exit %d", *code)
	}
	return "ended"
}

func gone(ephemeral bool) string {
	if ephemeral {
		return " (removed)"
	}
	return ""
}

func more(b *strings.Builder, output string, truncated bool) {
	if truncated {
		fmt.Fprintf(b, "\n[cut; read output=%s stream=stdout|stderr offset=N for the rest]", output)
	}
}

func outputLinks(output string, truncated bool) []sdk.Content {
	if !truncated || output == "" {
		return nil
	}
	var links []sdk.Content
	for _, stream := range []runtime.Stream{runtime.Stdout, runtime.Stderr} {
		links = append(links, &sdk.ResourceLink{
			URI: outputURI(output, stream), Name: fmt.Sprintf("%s of %s", stream, output), MIMEType: "text/plain",
		})
	}
	return links
}

type codeArgs struct {
	Code     string  `json:"code"`
	Language string  `json:"language,omitempty" enum:"python,node" jsonschema:"default python"`
	Sandbox  string  `json:"sandbox,omitempty" jsonschema:"omit for a throwaway one"`
	TimeoutS float64 `json:"timeout_s,omitempty"`
	Restart  bool    `json:"restart,omitempty" jsonschema:"begin with a fresh interpreter"`
}

func runCode(ctx context.Context, c call, in codeArgs) (out runtime.CodeResult, res result, err error) {
	timeout, err := seconds("code", "timeout_s", in.TimeoutS)
	if err != nil {
		return out, res, err
	}
	out, err = c.session.Code(ctx, runtime.CodeRequest{
		Sandbox: in.Sandbox, Language: runtime.Language(in.Language), Code: in.Code,
		Timeout: timeout, Restart: in.Restart, Progress: c.progress,
	})
	if err != nil {
		return out, res, err
	}
	var b strings.Builder
	streams(&b, out.Stdout, out.Stderr)
	if out.Value != "" {
		b.WriteString(out.Value + "\n")
	}
	if e := out.Error; e != nil {
		trace := strings.TrimRight(e.Traceback, "\n")
		if trace == "" {
			trace = e.Name + ": " + e.Message
		}
		b.WriteString(trace + "\n")
	}
	if out.Lost != "" {
		fmt.Fprintf(&b, "[the state of former calls is lost: %s]\n", out.Lost)
	}
	end := "done"
	switch {
	case out.TimedOut:
		end = "timed out"
	case out.Error != nil:
		end = "raised " + out.Error.Name
	}
	fmt.Fprintf(&b, "[%s, %d ms, sandbox %s%s]", end, out.DurationMS, out.Sandbox, gone(out.Ephemeral))
	more(&b, out.Output, out.Truncated)
	return out, result{text: b.String(), links: outputLinks(out.Output, out.Truncated)}, nil
}

type processArgs struct {
	Process string  `json:"process"`
	Action  string  `json:"action,omitempty" enum:"poll,write,close,signal" jsonschema:"default poll; close ends stdin"`
	Data    string  `json:"data,omitempty" jsonschema:"to write"`
	Signal  string  `json:"signal,omitempty" jsonschema:"TERM, INT, KILL, ..."`
	WaitS   float64 `json:"wait_s,omitempty"`
	Stdout  int64   `json:"stdout,omitempty" jsonschema:"offset: stdout.next of the last result"`
	Stderr  int64   `json:"stderr,omitempty"`
}

func driveProcess(ctx context.Context, c call, in processArgs) (out runtime.PollResult, res result, err error) {
	wait, err := seconds("process", "wait_s", in.WaitS)
	if err != nil {
		return out, res, err
	}
	switch in.Action {
	case "write", "close":
		_, err = c.session.WriteStdin(ctx, runtime.StdinRequest{Process: in.Process, Data: in.Data, Close: in.Action == "close"})
	case "signal":
		_, err = c.session.Signal(ctx, runtime.SignalRequest{Process: in.Process, Signal: in.Signal})
	}
	if err == nil {
		out, err = c.session.Poll(ctx, runtime.PollRequest{Process: in.Process, Stdout: in.Stdout, Stderr: in.Stderr, Wait: wait})
	}
	if err != nil {
		return out, res, err
	}
	var b strings.Builder
	streams(&b, chunkText(out.Stdout), chunkText(out.Stderr))
	state := "running"
	switch {
	case out.Running:
	case out.ProcessInfo.Error != nil:
		state = "ended: " + out.ProcessInfo.Error.Cause
	default:
		state = ended(out.ExitCode, out.ProcessInfo.Signal, out.TimedOut)
	}
	fmt.Fprintf(&b, "[%s %s, %d ms; next stdout=%d stderr=%d]", out.ID, state, out.DurationMS, out.Stdout.Next, out.Stderr.Next)
	return out, result{text: b.String()}, nil
}

func chunkText(c runtime.OutputChunk) string {
	if c.Encoding != "" && c.Text != "" {
		return fmt.Sprintf("[%d bytes that are no text, in %s: %s]", c.Next-c.Offset, c.Encoding, c.Text)
	}
	return c.Text
}

// seconds turns an argument in seconds into a duration.
func seconds(op, name string, s float64) (time.Duration, error) {
	const most = 30 * 24 * 60 * 60
	if s < 0 || s > most { // a NaN cannot come out of JSON
		return 0, &runtime.Error{Code: runtime.CodeInvalid, Op: op, Cause: fmt.Sprintf("%s is %v", name, s),
			Remedy: fmt.Sprintf("give 0 to %d seconds", most)}
	}
	return time.Duration(s * float64(time.Second)), nil
}
