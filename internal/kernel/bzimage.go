package kernel

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// ErrFormat is wrapped by errors about files that are not what they should be.
var ErrFormat = errors.New("malformed kernel file")

// maxImage bounds what a compressed kernel may unpack to. Debian's are below 80 MiB.
const maxImage = 512 << 20

// Fields of the real-mode header, by their offset in the file:
// https://docs.kernel.org/arch/x86/boot.html
const (
	offSetupSects    = 0x1f1
	offMagic         = 0x202 // "HdrS"
	offProtocol      = 0x206
	offKernelVersion = 0x20e // offset of the version's text, less 0x200
	offPayload       = 0x248 // from the start of the protected-mode code
	offPayloadLength = 0x24c
	headerEnd        = 0x250

	// The payload's place is in the header since boot protocol 2.08 (Linux 2.6.26).
	minProtocol = 0x208
)

// isELF tells whether image is a vmlinux already.
func isELF(image []byte) bool { return bytes.HasPrefix(image, []byte(elf.ELFMAG)) }

func checkHeader(image []byte) error {
	if len(image) < headerEnd || string(image[offMagic:offMagic+4]) != "HdrS" {
		return fmt.Errorf("%w: no bzImage header", ErrFormat)
	}
	if v := binary.LittleEndian.Uint16(image[offProtocol:]); v < minProtocol {
		return fmt.Errorf("%w: boot protocol %#x is older than %#x", ErrFormat, v, minProtocol)
	}
	return nil
}

// imageVersion returns the release that a bzImage says it is of: what `uname -r` prints.
func imageVersion(image []byte) (string, error) {
	if err := checkHeader(image); err != nil {
		return "", err
	}
	at := int(binary.LittleEndian.Uint16(image[offKernelVersion:])) + 0x200
	if at == 0x200 || at >= len(image) {
		return "", fmt.Errorf("%w: no version in the header", ErrFormat)
	}
	text := image[at:min(at+256, len(image))]
	if end := bytes.IndexAny(text, " \x00"); end >= 0 {
		text = text[:end]
	}
	if !validVersion(string(text)) {
		return "", fmt.Errorf("%w: version %q", ErrFormat, text)
	}
	return string(text), nil
}

// validVersion keeps a version from being anything but one plain element of a path.
func validVersion(v string) bool {
	if v == "" || v[0] == '.' || len(v) > 128 {
		return false
	}
	for _, c := range v {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		case c == '.', c == '-', c == '+', c == '_', c == '~':
		default:
			return false
		}
	}
	return true
}

// unpackImage returns the ELF kernel inside a bzImage. A VMM that enters it directly (PVH) spares
// the guest its slowest step under software emulation, the decompression.
func unpackImage(image []byte) ([]byte, error) {
	if isELF(image) {
		return image, nil
	}
	if err := checkHeader(image); err != nil {
		return nil, err
	}
	sects := int64(image[offSetupSects])
	if sects == 0 {
		sects = 4
	}
	start := (sects+1)*512 + int64(binary.LittleEndian.Uint32(image[offPayload:]))
	end := start + int64(binary.LittleEndian.Uint32(image[offPayloadLength:]))
	if start+8 > end || end > int64(len(image)) {
		return nil, fmt.Errorf("%w: payload at %d to %d of %d bytes", ErrFormat, start, end, len(image))
	}
	payload := image[start:end]
	vmlinux, err := decompress(trimSize(payload))
	if err != nil {
		return nil, err
	}
	if want := binary.LittleEndian.Uint32(payload[len(payload)-4:]); uint64(want) != uint64(len(vmlinux)) {
		return nil, fmt.Errorf("%w: unpacks to %d bytes, not to %d", ErrFormat, len(vmlinux), want)
	}
	if !isELF(vmlinux) {
		return nil, fmt.Errorf("%w: the payload is no ELF file", ErrFormat)
	}
	return vmlinux, nil
}

// trimSize cuts off the unpacked size, which the kernel's build appends as four bytes where the
// format does not end with it anyway, as gzip's does.
func trimSize(payload []byte) []byte {
	if bytes.HasPrefix(payload, gzipMagic) {
		return payload
	}
	return payload[:len(payload)-4]
}

// decompress unpacks what the kernel's build can have packed, told apart by the magic number.
func decompress(data []byte) ([]byte, error) {
	r, err := decompressor(data)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	n, err := io.Copy(&out, io.LimitReader(r, maxImage+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	case n > maxImage:
		return nil, fmt.Errorf("%w: unpacks to more than %d bytes", ErrFormat, maxImage)
	}
	return out.Bytes(), nil
}

// Magic numbers of compressed data.
var (
	gzipMagic      = []byte{0x1f, 0x8b}
	xzMagic        = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	zstdMagic      = []byte{0x28, 0xb5, 0x2f, 0xfd}
	lz4Magic       = []byte{0x04, 0x22, 0x4d, 0x18}
	lz4LegacyMagic = []byte{0x02, 0x21, 0x4c, 0x18}
)

func decompressor(data []byte) (io.Reader, error) {
	r := bytes.NewReader(data)
	switch {
	case bytes.HasPrefix(data, zstdMagic):
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		return d.IOReadCloser(), nil
	case bytes.HasPrefix(data, lz4LegacyMagic), bytes.HasPrefix(data, lz4Magic):
		return lz4.NewReader(r), nil
	case bytes.HasPrefix(data, xzMagic):
		x, err := xz.ReaderConfig{SingleStream: true}.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		return x, nil
	case bytes.HasPrefix(data, gzipMagic):
		g, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		g.Multistream(false)
		return g, nil
	}
	return nil, fmt.Errorf("%w: unknown compression (magic % x)", ErrFormat, data[:min(6, len(data))])
}
