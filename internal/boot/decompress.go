package boot

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
)

// maxWindow bounds the memory of a decompressor beside its output. The kernel's build compresses
// with windows of up to 128 MiB (zstd --ultra, xz --lzma2=dict=128MiB).
const maxWindow = 128 << 20

// Decompress unpacks a whole file of gzip, xz, zstd, bzip2 or LZ4 (the legacy frames of Linux, not
// those of the lz4 tool), told apart by its first bytes: kernels and their modules. A result of more
// than limit bytes is an error, so is anything after the compressed data.
func Decompress(data []byte, limit int) ([]byte, error) {
	c, err := compressionOf(data)
	if err != nil {
		return nil, err
	}
	return c.unpack(data, limit, maxWindow)
}

// decompressPayload unpacks the payload of a bzImage. The kernel's build appends the unpacked size
// to it, 32 bits little endian, unless the format ends with that by itself, as gzip does.
func decompressPayload(payload []byte, limit, window int) ([]byte, error) {
	c, err := compressionOf(payload)
	if err != nil {
		return nil, err
	}
	if len(payload) < 4+len(c.magic) {
		return nil, fmt.Errorf("%w: %s payload of %d bytes", ErrFormat, c.name, len(payload))
	}
	body := payload[:len(payload)-4]
	size := binary.LittleEndian.Uint32(payload[len(payload)-4:])
	if c.sizeInside {
		body = payload
	}
	if uint64(size) > uint64(limit) {
		return nil, fmt.Errorf("%w: %s payload says that it unpacks to %d bytes, more than %d", ErrFormat, c.name, size, limit)
	}
	out, err := c.unpack(body, int(size), window)
	if err != nil {
		return nil, err
	}
	if len(out) != int(size) {
		return nil, fmt.Errorf("%w: %s payload unpacks to %d bytes and says %d", ErrFormat, c.name, len(out), size)
	}
	return out, nil
}

type compression struct {
	name       string
	magic      string
	sizeInside bool
	// stream makes a decompressor that uses no more memory than window and ends at the end of one
	// compressed stream, with r at the byte after it.
	stream func(r *bytes.Reader, window int) (io.ReadCloser, error)
}

func compressionOf(data []byte) (compression, error) {
	for _, c := range []compression{
		{name: "gzip", magic: "\x1f\x8b", sizeInside: true, stream: gzipStream},
		{name: "xz", magic: "\xfd7zXZ\x00", stream: xzStream},
		{name: "zstd", magic: "\x28\xb5\x2f\xfd", stream: zstdStream},
		{name: "bzip2", magic: "BZh", stream: bzip2Stream},
		{name: "LZ4", magic: "\x02\x21\x4c\x18", stream: lz4Stream},
	} {
		if bytes.HasPrefix(data, []byte(c.magic)) {
			return c, nil
		}
	}
	return compression{}, fmt.Errorf("%w: unknown compression (first bytes % x)", ErrUnsupported, data[:min(6, len(data))])
}

// unpack decompresses all of data to at most limit bytes.
func (c compression) unpack(data []byte, limit, window int) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("%w: %s: %w", ErrFormat, c.name, err) }
	src := bytes.NewReader(data)
	r, err := c.stream(src, window)
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	// A claim to unpack to much costs nothing before there is something to it: the buffer starts at
	// what real kernels' compression makes likely and grows with the data.
	var out bytes.Buffer
	out.Grow(min(limit, 8*len(data)) + bytes.MinRead)
	n, err := io.Copy(&out, io.LimitReader(r, int64(limit)+1))
	switch {
	case err != nil:
		return fail(err)
	case n > int64(limit):
		return nil, fmt.Errorf("%w: %s: unpacks to more than %d bytes", ErrFormat, c.name, limit)
	case src.Len() > 0:
		return nil, fmt.Errorf("%w: %s: %d bytes after the end of the stream", ErrFormat, c.name, src.Len())
	}
	return out.Bytes(), nil
}

// One stream only, since the decompressors of the kernel stop after one too; bytes.Reader is an
// io.ByteReader, so gzip does not read ahead.
func gzipStream(r *bytes.Reader, _ int) (io.ReadCloser, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return z, nil
}

func bzip2Stream(r *bytes.Reader, _ int) (io.ReadCloser, error) {
	return io.NopCloser(bzip2.NewReader(r)), nil
}

func zstdStream(r *bytes.Reader, window int) (io.ReadCloser, error) {
	// Without further goroutines the decoder is no slower on one stream that is read at once.
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(uint64(window)))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// xz with the filter for x86 code, which the kernel's build uses and most Go libraries lack.
func xzStream(r *bytes.Reader, window int) (io.ReadCloser, error) {
	z, err := xz.NewReader(r, uint32(window))
	if err != nil {
		return nil, err
	}
	return io.NopCloser(z), nil
}

// lz4Block is the most that one block of a legacy frame unpacks to.
const lz4Block = 8 << 20

// lz4Reader reads what `lz4 -l` writes: the magic number and then blocks, each with its compressed
// size before it, up to the end of the file.
type lz4Reader struct {
	src     *bytes.Reader
	block   []byte // room for an unpacked block
	pending []byte // the part of it that has not been read
}

func lz4Stream(r *bytes.Reader, _ int) (io.ReadCloser, error) {
	if _, err := r.Seek(4, io.SeekStart); err != nil { // the magic number
		return nil, err
	}
	return io.NopCloser(&lz4Reader{src: r}), nil
}

func (z *lz4Reader) Read(p []byte) (int, error) {
	for len(z.pending) == 0 {
		if z.src.Len() == 0 {
			return 0, io.EOF
		}
		if err := z.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, z.pending)
	z.pending = z.pending[n:]
	return n, nil
}

func (z *lz4Reader) next() error {
	var head [4]byte
	if _, err := io.ReadFull(z.src, head[:]); err != nil {
		return err
	}
	size := binary.LittleEndian.Uint32(head[:])
	// The compressed data is in memory, so its length bounds what is allocated here.
	if uint64(size) > uint64(z.src.Len()) || size == 0 || size > math.MaxInt32 {
		return fmt.Errorf("block of %d bytes where %d are left", size, z.src.Len())
	}
	packed := make([]byte, size)
	if _, err := io.ReadFull(z.src, packed); err != nil {
		return err
	}
	if z.block == nil {
		z.block = make([]byte, lz4Block)
	}
	n, err := lz4.UncompressBlock(packed, z.block)
	if err != nil {
		return err
	}
	z.pending = z.block[:n]
	return nil
}
