package files

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/sandbox"
)

// Failure is an error of a file operation on its way out of the sandbox.
type Failure struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`
}

// Kind is what the host needs to know of an error.
type Kind string

// The kinds of failure, and the errors that they stand for.
const (
	KindNotExist   Kind = "not_exist"  // fs.ErrNotExist
	KindExist      Kind = "exist"      // fs.ErrExist
	KindPermission Kind = "permission" // fs.ErrPermission
	KindInvalid    Kind = "invalid"    // sandbox.ErrInvalid
	KindNoSpace    Kind = "no_space"   // ENOSPC inside the sandbox
	KindOther      Kind = "other"
)

// AsFailure translates an error into a Failure.
func AsFailure(err error) Failure {
	f := Failure{Kind: KindOther, Message: err.Error()}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		f.Kind = KindNotExist
	case errors.Is(err, fs.ErrExist):
		f.Kind = KindExist
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		f.Kind = KindPermission
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		f.Kind = KindNoSpace
	case errors.Is(err, sandbox.ErrInvalid), errors.Is(err, unix.EISDIR), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENAMETOOLONG):
		f.Kind = KindInvalid
	}
	return f
}

// Err translates a Failure back into an error for op on system and id.
func (f Failure) Err(op, system, id string) error {
	e := &sandbox.Error{Op: op, System: system, Sandbox: id, Detail: f.Message}
	switch f.Kind {
	case KindNotExist:
		e.Err = fs.ErrNotExist
	case KindExist:
		e.Err = fs.ErrExist
	case KindPermission:
		e.Err = fs.ErrPermission
	case KindInvalid:
		e.Err = sandbox.ErrInvalid
	case KindNoSpace:
		e.Err = unix.ENOSPC
	default:
		e.Err = errors.New("file operation failed")
	}
	e.Remedy = Remedy(e.Err)
	return e
}

// Remedy is what one can do about an error of a file operation; empty if nothing is known.
func Remedy(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "list the directory above it to see what is there"
	case errors.Is(err, fs.ErrExist):
		return "choose another name, or remove it first"
	case errors.Is(err, fs.ErrPermission):
		return "/tmp can be written to in every sandbox"
	case errors.Is(err, sandbox.ErrInvalid):
		return "stat it to see what it is: only regular files are read and written, and the root is never removed"
	case errors.Is(err, unix.ENOSPC):
		return "the sandbox's own file system is full: remove something"
	}
	return ""
}

// A file on its way into the sandbox is cut into chunks, each behind its length as 4 bytes big
// endian; a length of 0 ends it. A connection that breaks is thus never mistaken for the end.
const maxChunk = 1 << 20

// ErrTruncated means that the stream ended before the file did.
var ErrTruncated = errors.New("file content is cut off")

// ChunkReader turns the content read from r into chunks.
func ChunkReader(r io.Reader) io.Reader {
	return &chunker{r: r, buf: make([]byte, 4+64<<10)}
}

type chunker struct {
	r    io.Reader
	buf  []byte // 4 bytes of length, then content
	rest []byte // part of buf not yet handed out
	err  error
}

func (c *chunker) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		n, err := c.r.Read(c.buf[4:])
		switch {
		case errors.Is(err, io.EOF) && n == 0:
			c.err = io.EOF
			c.rest = c.buf[:4]
			binary.BigEndian.PutUint32(c.rest, 0)
			// The end goes out now, io.EOF with the next call.
		case err != nil && !errors.Is(err, io.EOF):
			return 0, err
		case n == 0:
			return 0, nil
		default:
			c.rest = c.buf[:4+n]
			binary.BigEndian.PutUint32(c.rest, uint32(n))
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Unchunk returns the content of the chunks read from r. Its Read returns io.EOF only after the
// ending chunk, else ErrTruncated.
func Unchunk(r io.Reader) io.Reader { return &unchunker{r: r} }

type unchunker struct {
	r    io.Reader
	left int
	done bool
}

func (u *unchunker) Read(p []byte) (int, error) {
	if u.done {
		return 0, io.EOF
	}
	if u.left == 0 {
		var head [4]byte
		if _, err := io.ReadFull(u.r, head[:]); err != nil {
			return 0, cutOff(err)
		}
		size := binary.BigEndian.Uint32(head[:])
		if size > maxChunk {
			return 0, fmt.Errorf("chunk of %d bytes: at most %d are allowed", size, maxChunk)
		}
		if size == 0 {
			u.done = true
			return 0, io.EOF
		}
		u.left = int(size)
	}
	n, err := u.r.Read(p[:min(len(p), u.left)])
	u.left -= n
	if n > 0 {
		return n, nil
	}
	return 0, cutOff(err)
}

func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrTruncated
	}
	return err
}
