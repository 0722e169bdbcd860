package mcp

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/runtime"
)

// The resources' addresses. A path in one is a path inside a sandbox.
const (
	uriRanking   = "aether://ranking"
	uriSandboxes = "aether://sandboxes"
	uriTemplates = "aether://templates"
	uriSandbox   = "aether://sandboxes/{sandbox}"
	uriFile      = "aether://sandboxes/{sandbox}/files{+path}"
	uriDiff      = "aether://sandboxes/{sandbox}/diff/{other}"
	uriOutput    = "aether://outputs/{output}/{stream}"
)

// resourceSize is the largest file that is read as a resource, in bytes. The tool read has ranges.
const resourceSize = 1 << 20

func outputURI(output string, stream runtime.Stream) string {
	return "aether://outputs/" + output + "/" + string(stream)
}

// resources are what a client can read besides calling tools.
type resources struct{ cfg Config }

func (r *resources) register(server *sdk.Server) {
	server.AddResource(&sdk.Resource{
		URI: uriRanking, Name: "ranking", MIMEType: "application/json",
		Description: "The systems that can isolate a sandbox, best first, and which of them this host has.",
	}, r.handler(r.ranking))
	server.AddResource(&sdk.Resource{
		URI: uriSandboxes, Name: "sandboxes", MIMEType: "application/json",
		Description: "Your sandboxes, processes, snapshots and budget.",
	}, r.handler(r.sandboxes))
	server.AddResource(&sdk.Resource{
		URI: uriTemplates, Name: "templates", MIMEType: "application/json",
		Description: "Templates that create can copy.",
	}, r.handler(r.templates))
	for _, t := range []struct {
		uri, name, mime, description string
		read                         reader
	}{
		{uriSandbox, "sandbox", "application/json", "One sandbox.", r.sandbox},
		{uriFile, "file", "", "A file or directory of a sandbox.", r.file},
		{uriDiff, "diff", "application/json", "How another sandbox, such as a fork, or a snapshot differs from one: files and memory.", r.diff},
		{uriOutput, "output", "text/plain", "All that is kept of stdout or stderr of a process, or of a result that was cut.", r.output},
	} {
		server.AddResourceTemplate(&sdk.ResourceTemplate{
			URITemplate: t.uri, Name: t.name, MIMEType: t.mime, Description: t.description,
		}, r.handler(t.read))
	}
}

// reader reads one kind of resource. parts are the elements of its address.
type reader func(ctx context.Context, s *runtime.Session, parts []string) (*sdk.ResourceContents, error)

func (r *resources) handler(read reader) sdk.ResourceHandler {
	return func(ctx context.Context, req *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
		uri := req.Params.URI
		parts, err := address(uri)
		if err != nil {
			return nil, sdk.ResourceNotFoundError(uri)
		}
		session, err := r.cfg.Session(ctx, req.Extra)
		if err != nil {
			return nil, protocolError(err, uri)
		}
		contents, err := read(ctx, session, parts)
		if err != nil {
			return nil, protocolError(err, uri)
		}
		contents.URI = uri
		return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{contents}}, nil
	}
}

// address splits the address of a resource at its slashes: "aether://sandboxes/sb1/files/etc/passwd" is
// "sandboxes", "sb1", "files", "etc/passwd".
func address(uri string) ([]string, error) {
	rest, ok := strings.CutPrefix(uri, "aether://")
	if !ok {
		return nil, fmt.Errorf("%.40q is no address of aether", uri)
	}
	parts := strings.SplitN(rest, "/", 4)
	for i, p := range parts {
		var err error
		if parts[i], err = url.PathUnescape(p); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

func (r *resources) ranking(ctx context.Context, _ *runtime.Session, _ []string) (*sdk.ResourceContents, error) {
	systems, err := r.cfg.Runtime.Systems(ctx)
	if err != nil {
		return nil, err
	}
	return asJSON(map[string]any{"systems": systems})
}

func (r *resources) sandboxes(ctx context.Context, s *runtime.Session, _ []string) (*sdk.ResourceContents, error) {
	listing, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	return asJSON(listing)
}

func (r *resources) templates(ctx context.Context, s *runtime.Session, _ []string) (*sdk.ResourceContents, error) {
	list, err := s.Templates(ctx)
	if err != nil {
		return nil, err
	}
	return asJSON(map[string]any{"templates": list})
}

func (r *resources) sandbox(ctx context.Context, s *runtime.Session, parts []string) (*sdk.ResourceContents, error) {
	info, err := s.Inspect(ctx, parts[1])
	if err != nil {
		return nil, err
	}
	return asJSON(info)
}

func (r *resources) file(ctx context.Context, s *runtime.Session, parts []string) (*sdk.ResourceContents, error) {
	path := "/"
	if len(parts) == 4 {
		path += parts[3]
	}
	var content []byte
	var next int64
	for {
		chunk, err := s.Read(ctx, runtime.ReadRequest{Sandbox: parts[1], Path: path, Offset: next})
		switch {
		case err != nil:
			return nil, err
		case chunk.Dir:
			return asJSON(chunk)
		case chunk.Size > resourceSize:
			return nil, &runtime.Error{Code: runtime.CodeInvalid, Op: "read", Sandbox: parts[1],
				Cause: fmt.Sprintf("%s has %d bytes", path, chunk.Size), Remedy: "read it by ranges with the tool read"}
		}
		if content, err = appendChunk(content, chunk.Text, chunk.Encoding); err != nil {
			return nil, err
		}
		if chunk.Next == nil || *chunk.Next <= next || len(content) > resourceSize {
			return asContents(content), nil
		}
		next = *chunk.Next
	}
}

// diffChanges bounds the changes of a comparison that is read as a resource.
const diffChanges = 200

func (r *resources) diff(ctx context.Context, s *runtime.Session, parts []string) (*sdk.ResourceContents, error) {
	d, err := s.Diff(ctx, runtime.DiffRequest{Sandbox: parts[1], Other: parts[3], Max: diffChanges})
	if err != nil {
		return nil, err
	}
	return asJSON(struct {
		runtime.DiffResult
		More bool `json:"more,omitempty"` // there are more changes, or there may be
	}{d, d.Next != ""})
}

func (r *resources) output(ctx context.Context, s *runtime.Session, parts []string) (*sdk.ResourceContents, error) {
	if len(parts) != 3 {
		return nil, &runtime.Error{Code: runtime.CodeNotFound, Op: "read"}
	}
	var content []byte
	var next int64
	end := int64(-1) // of what is there at first
	for {
		chunk, err := s.Output(ctx, runtime.OutputRequest{Output: parts[1], Stream: runtime.Stream(parts[2]), Offset: next})
		if err != nil {
			return nil, err
		}
		if chunk.Skipped > 0 {
			content = fmt.Appendf(content, "\n[%d bytes are no longer kept]\n", chunk.Skipped)
		}
		if content, err = appendChunk(content, chunk.Text, chunk.Encoding); err != nil {
			return nil, err
		}
		if end < 0 {
			end = chunk.Total
		}
		// What a process writes meanwhile is not waited for.
		if chunk.End || chunk.Next <= next || chunk.Next >= end {
			return asContents(content), nil
		}
		next = chunk.Next
	}
}

func appendChunk(content []byte, text, encoding string) ([]byte, error) {
	if encoding == "" {
		return append(content, text...), nil
	}
	return base64.StdEncoding.AppendDecode(content, []byte(text))
}

func asContents(content []byte) *sdk.ResourceContents {
	if utf8.Valid(content) {
		return &sdk.ResourceContents{MIMEType: "text/plain", Text: string(content)}
	}
	return &sdk.ResourceContents{MIMEType: "application/octet-stream", Blob: content}
}

func asJSON(v any) (*sdk.ResourceContents, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return &sdk.ResourceContents{MIMEType: "application/json", Text: string(text)}, nil
}

// listing adds the caller's sandboxes to the list of resources, which is otherwise the same for all.
func (r *resources) listing(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
		res, err := next(ctx, method, req)
		list, ok := res.(*sdk.ListResourcesResult)
		if !ok || err != nil {
			return res, err
		}
		session, err := r.cfg.Session(ctx, req.GetExtra())
		if err != nil {
			return nil, protocolError(err, "")
		}
		own, err := session.List(ctx)
		if err != nil {
			return nil, protocolError(err, "")
		}
		for _, s := range own.Sandboxes {
			list.Resources = append(list.Resources, &sdk.Resource{
				URI: uriSandboxes + "/" + s.ID, Name: s.ID, MIMEType: "application/json",
				Description: fmt.Sprintf("sandbox, %s, image %s", s.System, s.Image),
			})
		}
		return list, nil
	}
}
