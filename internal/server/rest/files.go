package rest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/aethervm/aether/internal/runtime"
)

// OneFile is a request for a file of a sandbox.
type OneFile struct {
	OneSandbox
	Path string `query:"path" required:"true" maxLength:"4095" doc:"absolute"`
}

// Edits change a file that exists, one after the other, all or none.
type Edits struct {
	Edits []runtime.Edit `json:"edits" minItems:"1" nullable:"false"`
}

func (s *server) registerFiles() {
	tags := []string{"files"}
	const file = "/v1/sandboxes/{sandbox}/files"
	bytes := map[string]*huma.MediaType{"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}
	get := huma.Operation{OperationID: "download-file", Method: http.MethodGet, Path: file, Tags: tags,
		Summary:     "The bytes of a file, or with the header Range a part of them",
		Description: "HEAD tells how large it is. A request for several parts is answered with the whole. A file that does not know its size, as those of /proc, comes whole.",
		Responses:   ok(http.StatusOK, bytes)}
	get.Responses["206"] = &huma.Response{Description: "the part", Content: bytes}
	get.Responses["416"] = &huma.Response{Description: "the file is shorter"}
	register(s, get, func(ctx context.Context, in *OneFile) (*huma.StreamResponse, error) { return s.download(ctx, in) })

	type written struct{ Body runtime.WriteResult }
	type upload struct {
		OneFile
		Upload
		Mode string `query:"mode" pattern:"^0?[0-7]{1,3}$" doc:"permission bits, octal; without, 644, or those that the file has"`
	}
	put := huma.Operation{OperationID: "upload-file", Method: http.MethodPut, Path: file, Tags: tags, DefaultStatus: http.StatusOK,
		Summary:  "Write a file whole, or not at all; missing directories are made",
		Metadata: map[string]any{streams: true}}
	register(s, put, func(ctx context.Context, in *upload) (*written, error) {
		res, err := s.upload(ctx, in.OneFile, in.Mode, in.body)
		if err != nil {
			in.abandon()
			return nil, err
		}
		return &written{res}, nil
	})
	s.api.OpenAPI().Paths[file].Put.RequestBody = &huma.RequestBody{Required: true, Content: bytes}

	type edit struct {
		OneFile
		Body Edits
	}
	register(s, huma.Operation{OperationID: "edit-file", Method: http.MethodPatch, Path: file, Tags: tags,
		Summary: "Replace exact text in a file"},
		func(ctx context.Context, in *edit) (*written, error) {
			session, err := s.find(ctx, in.Of, in.Sandbox)
			if err != nil {
				return nil, err
			}
			res, err := session.Write(ctx, runtime.WriteRequest{Sandbox: in.Sandbox, Path: in.Path, Edits: in.Body.Edits})
			return &written{res}, err
		})
	register(s, huma.Operation{OperationID: "remove-file", Method: http.MethodDelete, Path: file, Tags: tags,
		Summary: "Remove a file, or a directory with all that it holds"},
		func(ctx context.Context, in *OneFile) (*struct{}, error) {
			session, err := s.find(ctx, in.Of, in.Sandbox)
			if err != nil {
				return nil, err
			}
			return nil, session.Remove(ctx, in.Sandbox, in.Path)
		})

	s.registerTrees(tags)

	type query struct {
		OneFile
		Page
	}
	type list struct {
		Body struct {
			Entries []runtime.Entry `json:"entries"`
			Next    string          `json:"next,omitempty"`
		} `nameHint:"EntryList"`
	}
	register(s, huma.Operation{OperationID: "list-directory", Method: http.MethodGet, Path: "/v1/sandboxes/{sandbox}/entries", Tags: tags,
		Summary:     "What is in a directory, by name; of a file, the file itself",
		Description: "Between two pages the directory may change: an entry may then be missing, or come twice."},
		func(ctx context.Context, in *query) (*list, error) {
			session, err := s.find(ctx, in.Of, in.Sandbox)
			if err != nil {
				return nil, err
			}
			entry, err := session.Stat(ctx, in.Sandbox, in.Path)
			if err != nil {
				return nil, err
			}
			out := &list{}
			out.Body.Entries = []runtime.Entry{entry}
			if entry.Type == "dir" {
				out.Body.Entries, out.Body.Next, err = s.readDir(ctx, session, in.OneFile, in.Page)
			}
			return out, err
		})
}

func (s *server) upload(ctx context.Context, of OneFile, octal string, body io.Reader) (res runtime.WriteResult, err error) {
	session, err := s.find(ctx, of.Of, of.Sandbox)
	if err != nil {
		return res, err
	}
	mode, err := strconv.ParseUint("0"+octal, 8, 32)
	if err != nil {
		return res, refuse(runtime.CodeInvalid, "write", "give octal digits, such as 644", "the mode is %q", octal)
	}
	return session.Upload(ctx, runtime.UploadRequest{Sandbox: of.Sandbox, Path: of.Path, Mode: uint32(mode)}, body)
}

// readDir lists one page of a directory. The cursor is where in the directory the page begins: to keep more of it, or to
// read it whole for each page, would cost what the guest likes.
func (s *server) readDir(ctx context.Context, session *runtime.Session, of OneFile, p Page) (entries []runtime.Entry, next string, err error) {
	listing, owner := "entries\x00"+of.Sandbox+"\x00"+of.Path, session.Tenant().ID
	req := runtime.ReadRequest{Sandbox: of.Sandbox, Path: of.Path, Max: p.Limit}
	if p.Cursor != "" {
		position, err := s.cursors.open(listing, owner, p.Cursor)
		if err != nil {
			return nil, "", err
		}
		if req.Offset, err = strconv.ParseInt(position, 10, 64); err != nil {
			return nil, "", err
		}
	}
	res, err := session.Read(ctx, req)
	switch {
	case err != nil:
		return nil, "", err
	case !res.Dir:
		return nil, "", refuse(runtime.CodeConflict, "read", "list it again", "it was a directory, and is none any more")
	case res.Next != nil:
		next = s.cursors.seal(listing, owner, strconv.FormatInt(*res.Next, 10))
	}
	return res.Entries, next, nil
}

// Upload has the body of a request as it comes.
type Upload struct {
	body io.Reader
	r    *http.Request
	w    http.ResponseWriter
}

// Resolve takes the body, before the library has read any of it.
func (u *Upload) Resolve(ctx huma.Context) []error {
	u.r, u.w = humago.Unwrap(ctx)
	u.body = http.MaxBytesReader(u.w, u.r.Body, uploadSize)
	return nil
}

// abandon has what is left of the body not waited for: the client may be sending nothing.
func (u *Upload) abandon() {
	closeAfter(u.r, u.w)
	_ = http.NewResponseController(u.w).SetReadDeadline(time.Now()) // where there is none, nothing waits
}

func (s *server) download(ctx context.Context, in *OneFile) (*huma.StreamResponse, error) {
	session, err := s.find(ctx, in.Of, in.Sandbox)
	if err != nil {
		return nil, err
	}
	entry, err := session.Stat(ctx, in.Sandbox, in.Path)
	if err != nil {
		return nil, err
	}
	if entry.Type == "dir" {
		return nil, refuse(runtime.CodeInvalid, "read", "list it: GET .../entries", "it is a directory")
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		h := w.Header()
		h.Set("Content-Type", "application/octet-stream")
		// A page that a sandbox has made must not run as one of this server's.
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "sandbox")
		h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": path.Base(in.Path)}))
		h.Set("Cache-Control", "no-store")
		if strings.Contains(r.Header.Get("Range"), ",") {
			r.Header.Del("Range") // several are for the library to read in a goroutine that may outlive this one
		}
		ctx, over := endable(ctx, w)
		defer over()
		file := &remoteFile{ctx: ctx, session: session, req: runtime.DownloadRequest{Sandbox: in.Sandbox, Path: in.Path}, size: entry.Size}
		defer func() { _ = file.Close() }() // nothing of it is lost by that
		if entry.Type == "file" && entry.Size > 0 {
			http.ServeContent(w, r, "", entry.Modified, file)
			if file.err != nil {
				panic(http.ErrAbortHandler) // what was promised did not come: the client must not take it for whole
			}
			return
		}
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusOK)
			return
		}
		begun := &begun{ResponseWriter: w}
		if err := session.Download(ctx, file.req, begun); err != nil {
			if begun.wrote {
				panic(http.ErrAbortHandler)
			}
			problem(err).write(w)
		}
	}}, nil
}

// begun notes whether anything was written.
type begun struct {
	http.ResponseWriter
	wrote bool
}

func (b *begun) Write(p []byte) (int, error) {
	b.wrote = true
	return b.ResponseWriter.Write(p)
}

// remoteFile is a file of a sandbox as one that can be read from anywhere, by one caller. Nothing is read before it is
// asked for.
type remoteFile struct {
	ctx     context.Context
	session *runtime.Session
	req     runtime.DownloadRequest
	size    int64
	at      int64
	err     error // of reading

	from *io.PipeReader // nil until something is read
	stop context.CancelFunc
	done chan struct{}
}

// Seek is io.Seeker's.
func (f *remoteFile) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.at
	case io.SeekEnd:
		offset += f.size
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	if offset != f.at {
		_ = f.Close() // what follows is read anew
	}
	f.at = offset
	return offset, nil
}

// Read begins to read the file where it is, if it does not yet.
func (f *remoteFile) Read(p []byte) (int, error) {
	if f.at >= f.size {
		return 0, io.EOF
	}
	if f.from == nil {
		from, to := io.Pipe()
		ctx, stop := context.WithCancel(f.ctx)
		f.from, f.stop, f.done = from, stop, make(chan struct{})
		req, done := f.req, f.done
		req.Offset, req.Size = f.at, f.size-f.at
		go func() {
			defer close(done)
			err := f.session.Download(ctx, req, to)
			if err == nil {
				err = io.EOF
			}
			to.CloseWithError(err)
		}()
	}
	n, err := f.from.Read(p)
	f.at += int64(n)
	if err != nil && f.at < f.size {
		if errors.Is(err, io.EOF) { // it was made shorter meanwhile
			err = io.ErrUnexpectedEOF
		}
		f.err = err
	}
	return n, err
}

// Close ends the reading. It may be read on afterwards.
func (f *remoteFile) Close() error {
	if f.from == nil {
		return nil
	}
	f.stop()
	err := f.from.Close()
	<-f.done
	f.from = nil
	return err
}
