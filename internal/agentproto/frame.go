// Package agentproto is how a host talks to the agent inside a guest.
//
// One connection carries one operation at a time: the host sends a request, both sides exchange frames, and
// the guest ends with a Done or a Fail frame. After that the host closes the connection or, if it has sent no
// frame but the request, may send the next one. To close the connection early is to cancel: the guest
// then kills what the operation started. Any reliable byte stream will do as a connection (a vsock
// connection, a Unix socket, a stream of the multiplexer that this package runs over one serial
// port).
//
// A frame is a byte that tells its kind, the payload's length as four bytes, least significant
// first, and the payload. Neither side trusts the other: lengths are capped before anything is
// allocated, and what does not decode is an error, after which the connection is of no more use.
package agentproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Version is that of the protocol. It is in every request; a guest refuses any other.
const Version = 5

// Port is the vsock port on which the agent listens in a guest that has sockets to its host. There each
// operation that goes on at one time has a connection of its own, without a multiplexer.
const Port = 1024

// What the agent's init is told on the kernel's command line, after "--": which channel it is to serve.
const (
	// InitSerial is for the virtio-serial port aether.agent.
	InitSerial = "init"
	// InitVsock is for Port. The agent listens before it loads the socket driver, so that a host that
	// asks for a connection before the guest has started gets it as soon as it can be had.
	InitVsock = "init vsock"
)

const (
	// MaxData caps the payload of a frame that carries bulk data.
	MaxData = 64 << 10
	// MaxControl caps the payload of any other frame. It bounds arguments and environment of a
	// program, as the kernel does (a quarter of an 8 MiB stack).
	MaxControl = 2 << 20
	// InputWindow is how much input of an operation the guest buffers: the host may send so much
	// before it has seen credit, and then as much as it was given credit for. Since the guest can
	// always take that much off the connection, a control frame never waits behind data.
	InputWindow = 512 << 10

	headerSize = 5
)

// ErrProtocol is wrapped by errors about a peer that breaks the protocol.
var ErrProtocol = errors.New("guest agent protocol violated")

// Kind is the kind of a frame.
type Kind uint8

// Frames from host to guest.
const (
	KindRequest  Kind = 1 // an encoded Request; the first frame of an operation
	KindInput    Kind = 2 // standard input, or the content of a file to write
	KindInputEnd Kind = 3 // end of the input; for a file: commit it
	KindKill     Kind = 4 // kill the program and its descendants; its exit is still reported
	KindResize   Kind = 5 // an encoded size: the program's terminal has it now
)

// Frames from guest to host.
const (
	KindOutput      Kind = 16 // standard output, or the content of a file
	KindErrorOutput Kind = 17 // standard error
	KindCredit      Kind = 18 // four bytes: so much more input may be sent
	KindInputClosed Kind = 19 // no more input is wanted
	KindEntry       Kind = 20 // an encoded FileInfo, one a directory entry
	KindDone        Kind = 21 // the last frame: an encoded result, depending on the operation
	KindFail        Kind = 22 // the last frame: an encoded Failure
	KindChange      Kind = 30 // an encoded Change
)

func (k Kind) limit() int {
	switch k {
	case KindInput, KindOutput, KindErrorOutput:
		return MaxData
	case KindRequest, KindDone, KindFail, KindEntry, KindChange:
		return MaxControl
	case KindCredit, KindResize:
		return 4
	case KindInputEnd, KindKill, KindInputClosed:
		return 0
	}
	return -1
}

// Frame is one frame. Payload is valid until the next frame is read.
type Frame struct {
	Kind    Kind
	Payload []byte
}

// Reader reads frames. It is for one goroutine.
type Reader struct {
	r      io.Reader
	header [headerSize]byte
	buf    []byte
}

// NewReader returns a Reader of frames from r. It reads no byte past the frames asked for.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next reads one frame. It returns io.EOF if the stream ends between frames.
func (r *Reader) Next() (Frame, error) {
	if _, err := io.ReadFull(r.r, r.header[:]); err != nil {
		return Frame{}, err
	}
	kind, size := Kind(r.header[0]), binary.LittleEndian.Uint32(r.header[1:])
	limit := kind.limit()
	if limit < 0 {
		return Frame{}, fmt.Errorf("%w: frame of unknown kind %d", ErrProtocol, kind)
	}
	if uint64(size) > uint64(limit) {
		return Frame{}, fmt.Errorf("%w: frame of kind %d with %d bytes, more than %d", ErrProtocol, kind, size, limit)
	}
	if int(size) > cap(r.buf) || cap(r.buf) > MaxData && size <= MaxData { // a large one is not kept for small frames
		r.buf = make([]byte, size, max(int(size), 4<<10))
	}
	payload := r.buf[:size]
	if _, err := io.ReadFull(r.r, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	return Frame{Kind: kind, Payload: payload}, nil
}

// AppendFrame appends an encoded frame to b. The payload must be within the limit of its kind.
func AppendFrame(b []byte, kind Kind, payload []byte) []byte {
	b = append(b, byte(kind))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// WriteFrame writes one frame with one call of w.Write.
func WriteFrame(w io.Writer, kind Kind, payload []byte) error {
	if len(payload) > kind.limit() {
		return fmt.Errorf("frame of kind %d: %d bytes are more than %d", kind, len(payload), kind.limit())
	}
	_, err := w.Write(AppendFrame(make([]byte, 0, headerSize+len(payload)), kind, payload))
	return err
}

// HeaderSize is the room that SealFrame needs before the payload.
const HeaderSize = headerSize

// SealFrame fills in the header of a frame whose payload is already in place at b[HeaderSize:], so
// that bulk data need not be copied. It returns b.
func SealFrame(b []byte, kind Kind) []byte {
	b[0] = byte(kind)
	binary.LittleEndian.PutUint32(b[1:], uint32(len(b)-headerSize))
	return b
}
