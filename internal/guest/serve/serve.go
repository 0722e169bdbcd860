// Package serve is the guest's side of package agentproto: it does the operations that the host
// asks for.
package serve

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/guest/files"
	"github.com/aethervm/aether/sandbox"
)

// Machine is what operations need of the machine that the agent runs on. Its methods may be called
// concurrently.
type Machine interface {
	// Start starts a program.
	Start(Program) (Process, error)
	Configure(agentproto.Config) error
	// Freeze stops all programs, Thaw lets them go on; Frozen tells what holds now.
	Freeze() error
	Thaw(agentproto.Config) error
	Frozen() bool
	// Copied counts how often the machine has turned out, in Thaw, to be a copy of another one.
	Copied() int
	Stats() (agentproto.Stats, error)
}

// Program is one to be started.
type Program struct {
	Path string
	// Args begins with the program's name as it was asked for.
	Args, Env []string
	Dir       string
	// Stdio is its standard input, output and error.
	Stdio [3]*os.File
	// Terminal tells that they are a terminal, which is to control the program.
	Terminal bool
}

// Process is a program that was started.
type Process interface {
	// Done is closed when the program itself has ended.
	Done() <-chan struct{}
	// Status says how it ended, once Done is closed: an exit code, or -1 and a signal.
	Status() (code, signal int)
	// Kill kills the program and all its descendants, also those that it left behind when it ended,
	// and returns when none is left.
	Kill()
	// Release frees what the process holds of the agent, after its end and the last Kill. What the
	// program left running goes on.
	Release()
}

// Server serves operations. Its methods may be called concurrently.
type Server struct {
	Machine Machine
	// Tree tells what was written since the image was made. It may be nil: then nobody can ask for it.
	Tree *files.Tree

	sockets atomic.Int32 // connected for hosts now
}

// conn is a connection, for one operation after the other.
type conn struct {
	stream io.ReadWriteCloser
	frames *agentproto.Reader
	writes sync.Mutex
	// next, if not nil, gets what follows the operation: another goroutine waits for it.
	next chan following
}

// following is the frame after an operation, or why there is none.
type following struct {
	frame agentproto.Frame
	err   error
}

// request waits for the next operation's.
func (c *conn) request() (agentproto.Frame, error) {
	if c.next == nil {
		return c.frames.Next()
	}
	f := <-c.next
	c.next = nil
	return f.frame, f.err
}

func (c *conn) write(kind agentproto.Kind, payload []byte) error {
	c.writes.Lock()
	defer c.writes.Unlock()
	return agentproto.WriteFrame(c.stream, kind, payload)
}

// writeSealed writes a frame whose payload is at b[agentproto.HeaderSize:].
func (c *conn) writeSealed(kind agentproto.Kind, b []byte) error {
	c.writes.Lock()
	defer c.writes.Unlock()
	_, err := c.stream.Write(agentproto.SealFrame(b, kind))
	return err
}

// Serve does the operations that are asked for on stream, one after the other, until it ends or something comes
// that is out of place, and closes it.
func (s *Server) Serve(stream io.ReadWriteCloser) {
	defer stream.Close()
	c := &conn{stream: stream, frames: agentproto.NewReader(stream)}
	for s.serveOne(c) == nil {
	}
}

// serveOne does one operation. An error means that the connection is of no more use.
func (s *Server) serveOne(c *conn) error {
	first, err := c.request()
	if err != nil {
		return err
	}
	if first.Kind != agentproto.KindRequest {
		return fmt.Errorf("%w: frame of kind %d in place of a request", agentproto.ErrProtocol, first.Kind)
	}
	request, err := agentproto.DecodeRequest(first.Payload)
	if err != nil {
		return errors.Join(err, c.write(agentproto.KindFail, agentproto.NewFailure(err).Append(nil)))
	}
	result, err := s.do(c, request)
	if err != nil {
		return c.write(agentproto.KindFail, agentproto.NewFailure(err).Append(nil))
	}
	return c.write(agentproto.KindDone, result)
}

func (s *Server) do(c *conn, r agentproto.Request) ([]byte, error) {
	switch r.Op {
	case agentproto.OpPing:
		return nil, nil
	case agentproto.OpConfigure:
		return nil, s.Machine.Configure(r.Config)
	case agentproto.OpFreeze:
		return nil, s.Machine.Freeze()
	case agentproto.OpThaw:
		return nil, s.Machine.Thaw(r.Config)
	case agentproto.OpStats:
		stats, err := s.Machine.Stats()
		return stats.Append(nil), err
	case agentproto.OpExec:
		exit, err := s.exec(c, r.Exec)
		return exit.Append(nil), err
	case agentproto.OpRead:
		return nil, files.Read(r.Path, r.Offset, r.Size, &fileOutput{c: c})
	case agentproto.OpWrite:
		return nil, files.Write(r.Path, &fileInput{c: c}, r.Perm)
	case agentproto.OpList:
		list, err := files.List(r.Path)
		return nil, errors.Join(err, c.writeEntries(list))
	case agentproto.OpStat:
		info, err := files.Stat(r.Path)
		if err != nil {
			return nil, err
		}
		return nil, c.writeEntries([]sandbox.FileInfo{info})
	case agentproto.OpRemove:
		return nil, files.Remove(r.Path)
	case agentproto.OpConnect:
		return nil, s.connect(c, r.Path)
	case agentproto.OpChanges, agentproto.OpExamine:
		return Tree(s.Tree, r, c.stream)
	}
	return nil, fmt.Errorf("operation %s: %w", r.Op, sandbox.ErrInvalid)
}

// writeEntries writes entries, many frames with one call of Write.
func (c *conn) writeEntries(list []sandbox.FileInfo) error {
	var batch, entry []byte
	for i, info := range list {
		entry = agentproto.AppendFileInfo(entry[:0], info)
		batch = agentproto.AppendFrame(batch, agentproto.KindEntry, entry)
		if len(batch) > agentproto.MaxData || i == len(list)-1 {
			if _, err := c.stream.Write(batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	return nil
}

// fileOutput sends a file's content.
type fileOutput struct {
	c   *conn
	buf []byte
}

// ReadFrom spares a copy: the file is read to where the frame's payload is.
func (o *fileOutput) ReadFrom(r io.Reader) (int64, error) {
	buf := make([]byte, agentproto.HeaderSize+agentproto.MaxData)
	var total int64
	for {
		n, err := r.Read(buf[agentproto.HeaderSize:])
		if n > 0 {
			total += int64(n)
			if err := o.c.writeSealed(agentproto.KindOutput, buf[:agentproto.HeaderSize+n]); err != nil {
				return total, err
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func (o *fileOutput) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), agentproto.MaxData)
		o.buf = append(append(o.buf[:0], make([]byte, agentproto.HeaderSize)...), p[:n]...)
		if err := o.c.writeSealed(agentproto.KindOutput, o.buf); err != nil {
			return written, err
		}
		written, p = written+n, p[n:]
	}
	return written, nil
}

// fileInput is the content of a file to be written. Only its proper end is io.EOF.
type fileInput struct {
	c      *conn
	rest   []byte
	ended  bool
	credit credit
}

func (in *fileInput) Read(p []byte) (int, error) {
	if in.ended {
		return 0, io.EOF
	}
	if len(in.rest) == 0 {
		f, err := in.c.frames.Next()
		switch {
		case errors.Is(err, io.EOF):
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		case f.Kind == agentproto.KindInputEnd:
			in.ended = true
			return 0, io.EOF
		case f.Kind != agentproto.KindInput:
			return 0, fmt.Errorf("%w: frame of kind %d in a file", agentproto.ErrProtocol, f.Kind)
		}
		in.rest = f.Payload // valid: the next frame is read only when it is used up
	}
	n := copy(p, in.rest)
	in.rest = in.rest[n:]
	return n, in.credit.give(in.c, n)
}

// credit gathers small credits, so that they do not cost a frame each.
type credit struct{ owed int }

func (cr *credit) give(c *conn, n int) error {
	if cr.owed += n; cr.owed < agentproto.InputWindow/4 {
		return nil
	}
	n, cr.owed = cr.owed, 0
	return c.write(agentproto.KindCredit, []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
}
