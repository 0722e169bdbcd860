package image

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	xzMagic   = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
)

// zstdWindow bounds the memory that a zstd archive can ask for. `zstd -19` needs 8 MiB,
// `zstd --long` 128 MiB.
const zstdWindow = 128 << 20

// decompress finds out from the first bytes how r is compressed, if it is. The result must be
// closed; r is not. xz is for local files only: its decoder cannot be kept from allocating a
// dictionary of up to 4 GiB.
func decompress(r io.Reader, allowXZ bool) (io.ReadCloser, error) {
	raw := &rawReader{r: r}
	br := bufio.NewReaderSize(raw, 128<<10)
	head, err := br.Peek(len(xzMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		zr, err := gzip.NewReader(br)
		if err != nil {
			return nil, bad("gzip: %v", err)
		}
		return packed{zr, raw, "gzip"}, nil
	case bytes.HasPrefix(head, zstdMagic):
		zr, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, bad("zstd: %v", err)
		}
		return packed{zr.IOReadCloser(), raw, "zstd"}, nil
	case bytes.HasPrefix(head, xzMagic):
		if !allowXZ {
			return nil, bad("a layer is compressed with xz, which layers never are")
		}
		zr, err := xz.NewReader(br)
		if err != nil {
			return nil, bad("xz: %v", err)
		}
		return packed{io.NopCloser(zr), raw, "xz"}, nil
	}
	return io.NopCloser(br), nil
}

// packed tells damaged data, an error of the source, from an error of reading it.
type packed struct {
	io.ReadCloser
	raw    *rawReader
	format string
}

func (p packed) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return n, err
	case p.raw.err != nil:
		return n, p.raw.err
	}
	return n, bad("%s: %v", p.format, err)
}

// rawReader remembers why reading failed.
type rawReader struct {
	r   io.Reader
	err error
}

func (r *rawReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}
