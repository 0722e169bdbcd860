package docker

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The engine sends standard output and standard error of a program over one connection, as frames
// with a header of eight bytes: the stream, three zero bytes, the length of the payload in
// big-endian order. See "Attach to a container" in the Engine API's reference.
const (
	frameHeader  = 8
	streamStdout = 1
	streamStderr = 2
	streamSystem = 3 // an error of the engine itself
)

// maxSystemError bounds what is read of an error of the engine.
const maxSystemError = 64 << 10

// demux copies the frames in r to stdout and stderr until r ends. Unlike the stdcopy of the engine's
// own module it holds no frame in memory, whose length is the engine's word only, and tells a stream
// that breaks off inside a frame from one that has ended.
func demux(stdout, stderr io.Writer, r io.Reader) error {
	buffered := bufio.NewReaderSize(r, 64<<10)
	payload := make([]byte, 32<<10)
	var header [frameHeader]byte
	for {
		if _, err := io.ReadFull(buffered, header[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("output of the program: frame header: %w", err)
		}
		size := int64(binary.BigEndian.Uint32(header[4:]))
		var to io.Writer
		switch header[0] {
		case streamStdout:
			to = stdout
		case streamStderr:
			to = stderr
		case streamSystem:
			text, err := io.ReadAll(io.LimitReader(buffered, min(size, maxSystemError)))
			if err != nil {
				return fmt.Errorf("output of the program: %w", err)
			}
			return fmt.Errorf("output of the program: the engine says: %s", text)
		default:
			return fmt.Errorf("output of the program: frame for stream %d", header[0])
		}
		for size > 0 {
			n, err := buffered.Read(payload[:min(size, int64(len(payload)))])
			if _, werr := to.Write(payload[:n]); werr != nil {
				return fmt.Errorf("output of the program: %w", werr)
			}
			size -= int64(n)
			if errors.Is(err, io.EOF) && size > 0 {
				err = io.ErrUnexpectedEOF
			}
			if err != nil && size > 0 {
				return fmt.Errorf("output of the program: %w", err)
			}
		}
	}
}
