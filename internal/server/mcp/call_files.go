package mcp

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/aethervm/aether/internal/runtime"
)

// readShown is how much of a file one call shows unless it asks for more, in bytes.
const readShown = 16 << 10

type readArgs struct {
	Path    string `json:"path,omitempty" jsonschema:"absolute"`
	Sandbox string `json:"sandbox,omitempty" jsonschema:"omit to look into the image"`
	Output  string `json:"output,omitempty" jsonschema:"instead of path: output of a result, or a process"`
	Stream  string `json:"stream,omitempty" enum:"stdout,stderr"`
	Offset  int64  `json:"offset,omitempty" jsonschema:"in bytes; negative counts from the end"`
	Max     int    `json:"max,omitempty" jsonschema:"bytes, or directory entries; default 16384, at most 65536"`
}

// readResult is one of a file, a directory and an output.
type readResult struct {
	Sandbox  string          `json:"sandbox,omitempty"`
	Path     string          `json:"path,omitempty"`
	Output   string          `json:"output,omitempty"`
	Size     int64           `json:"size"`
	Mode     string          `json:"mode,omitempty"`
	Text     string          `json:"text,omitempty"`
	Encoding string          `json:"encoding,omitempty"`
	Offset   int64           `json:"offset"`
	Next     *int64          `json:"next,omitempty"`
	Skipped  int64           `json:"skipped,omitempty"`
	Entries  []runtime.Entry `json:"entries,omitempty"`
}

func read(ctx context.Context, c call, in readArgs) (out readResult, res result, err error) {
	switch {
	case in.Output != "" && in.Path == "":
		out, err = readOutput(ctx, c, in)
	case in.Path != "" && in.Output == "":
		out, err = readFile(ctx, c, in)
	default:
		err = &runtime.Error{Code: runtime.CodeInvalid, Op: "read", Cause: "it takes either path or output", Remedy: "give one of them"}
	}
	if err != nil {
		return out, res, err
	}
	return out, result{text: readText(out)}, nil
}

func readOutput(ctx context.Context, c call, in readArgs) (readResult, error) {
	chunk, err := c.session.Output(ctx, runtime.OutputRequest{
		Output: in.Output, Stream: runtime.Stream(in.Stream), Offset: in.Offset, Max: in.Max,
	})
	if err != nil {
		return readResult{}, err
	}
	out := readResult{Output: in.Output, Size: chunk.Total, Text: chunk.Text, Encoding: chunk.Encoding,
		Offset: chunk.Offset, Skipped: chunk.Skipped}
	if !chunk.End {
		out.Next = &chunk.Next
	}
	return out, nil
}

func readFile(ctx context.Context, c call, in readArgs) (readResult, error) {
	if in.Max == 0 {
		in.Max = readShown
	}
	r, err := c.session.Read(ctx, runtime.ReadRequest{Sandbox: in.Sandbox, Path: in.Path, Offset: in.Offset, Max: in.Max})
	if err != nil {
		return readResult{}, err
	}
	return readResult{Sandbox: r.Sandbox, Path: r.Path, Size: r.Size, Mode: r.Mode, Text: r.Text, Encoding: r.Encoding,
		Offset: r.Offset, Next: r.Next, Entries: r.Entries}, nil
}

// readText is the content as it is, and a line only if there is more to know.
func readText(r readResult) string {
	var b strings.Builder
	if len(r.Entries) > 0 || strings.HasPrefix(r.Mode, "d") {
		for _, e := range r.Entries {
			fmt.Fprintf(&b, "%s %9d %s", e.Mode, e.Size, e.Name)
			if e.Target != "" {
				b.WriteString(" -> " + e.Target)
			}
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "[%d entries]", r.Size)
	} else {
		b.WriteString(r.Text)
	}
	if r.Skipped > 0 {
		fmt.Fprintf(&b, "\n[%d bytes before offset %d are no longer kept]", r.Skipped, r.Offset)
	}
	if r.Encoding != "" {
		fmt.Fprintf(&b, "\n[%s]", r.Encoding)
	}
	if r.Next != nil {
		fmt.Fprintf(&b, "\n[%d bytes in all; read on at offset %d]", r.Size, *r.Next)
	}
	if b.Len() == 0 {
		return "[empty]"
	}
	return b.String()
}

type writeArgs struct {
	Sandbox  string    `json:"sandbox"`
	Path     string    `json:"path" jsonschema:"absolute"`
	Text     *string   `json:"text,omitempty" jsonschema:"the whole file"`
	Encoding string    `json:"encoding,omitempty" jsonschema:"of text: utf-8 or base64"`
	Mode     string    `json:"mode,omitempty" jsonschema:"octal, such as 755"`
	Edits    []editArg `json:"edits,omitempty" jsonschema:"instead of text"`
}

type editArg struct {
	Old string `json:"old" jsonschema:"found exactly once, unless all"`
	New string `json:"new"`
	All bool   `json:"all,omitempty"`
}

func write(ctx context.Context, c call, in writeArgs) (out runtime.WriteResult, res result, err error) {
	req := runtime.WriteRequest{Sandbox: in.Sandbox, Path: in.Path}
	switch in.Encoding {
	case "", "utf-8", "utf8":
	case "base64":
		req.Encoding = in.Encoding
	default:
		return out, res, &runtime.Error{Code: runtime.CodeInvalid, Op: "write", Cause: fmt.Sprintf("encoding is %.20q", in.Encoding),
			Remedy: "give utf-8 or base64"}
	}
	if (in.Text == nil) == (len(in.Edits) == 0) {
		return out, res, &runtime.Error{Code: runtime.CodeInvalid, Op: "write", Cause: "it takes either text or edits", Remedy: "give one of them"}
	}
	if in.Text != nil {
		req.Text = *in.Text
	}
	for _, e := range in.Edits {
		req.Edits = append(req.Edits, runtime.Edit{Old: e.Old, New: e.New, All: e.All})
	}
	if in.Mode != "" {
		mode, err := strconv.ParseUint(in.Mode, 8, 32)
		if err != nil || mode == 0 || mode > 0o7777 {
			return out, res, &runtime.Error{Code: runtime.CodeInvalid, Op: "write", Cause: fmt.Sprintf("mode is %.20q", in.Mode),
				Remedy: "give permission bits in octal, such as 644 or 755"}
		}
		req.Mode = uint32(mode)
	}
	if out, err = c.session.Write(ctx, req); err != nil {
		return out, res, err
	}
	text := fmt.Sprintf("[%s: %d bytes]", out.Path, out.Size)
	if len(in.Edits) > 0 {
		text = fmt.Sprintf("[%s: %d replaced, the first in line %d; %d bytes]", out.Path, out.Replaced, out.Line, out.Size)
	}
	return out, result{text: text}, nil
}
