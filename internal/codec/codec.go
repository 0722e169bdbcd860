// Package codec reads and writes the encoding of saved state: little-endian numbers of fixed size, one
// after the other, and lists as a count and their elements. It knows no types: what reads must ask for what
// was written. Decoding trusts nothing: whatever the bytes are, it ends in values or in an error, and takes
// no more memory than the limits that its caller names.
package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrMalformed is wrapped by errors about bytes that are not what was asked for.
var ErrMalformed = errors.New("malformed state")

// Append appends v, a number, or a struct or array of nothing but exported numbers of fixed size, to b. With
// any other type it panics: that is a mistake of the program.
func Append(b []byte, v any) []byte {
	b, err := binary.Append(b, binary.LittleEndian, v)
	if err != nil {
		panic(err)
	}
	return b
}

// AppendBytes appends a list of bytes to b.
func AppendBytes(b, p []byte) []byte { return append(AppendCount(b, len(p)), p...) }

// AppendCount appends the count of a list whose elements follow.
func AppendCount(b []byte, n int) []byte { return binary.LittleEndian.AppendUint32(b, uint32(n)) }

// Decoder takes an encoding apart. After the first error it yields zeros, so that only End has to be
// checked.
type Decoder struct {
	rest []byte
	err  error
}

// NewDecoder returns a decoder of b, which it does not change.
func NewDecoder(b []byte) *Decoder { return &Decoder{rest: b} }

// Fail makes the decoder fail, unless it has already.
func (d *Decoder) Fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
	}
	d.rest = nil
}

// Err is the first error.
func (d *Decoder) Err() error { return d.err }

// Value reads what Append has written of the type that v points to.
func (d *Decoder) Value(v any) {
	if d.err != nil {
		return
	}
	n, err := binary.Decode(d.rest, binary.LittleEndian, v)
	if err != nil {
		d.Fail("%d bytes are left for a %T", len(d.rest), v)
		return
	}
	d.rest = d.rest[n:]
}

// Fill reads as many bytes as p has.
func (d *Decoder) Fill(p []byte) {
	if len(d.rest) < len(p) {
		d.Fail("%d bytes are left of %d", len(d.rest), len(p))
		return
	}
	d.rest = d.rest[copy(p, d.rest):]
}

// Count reads the count of a list, of at most limit elements.
func (d *Decoder) Count(limit int) int {
	var n uint32
	d.Value(&n)
	if uint64(n) > uint64(limit) {
		d.Fail("a list of %d elements, more than %d", n, limit)
		return 0
	}
	return int(n)
}

// Bytes reads a list of at most limit bytes: a part of what is decoded.
func (d *Decoder) Bytes(limit int) []byte {
	n := d.Count(limit)
	if n > len(d.rest) {
		d.Fail("a list of %d bytes, of which %d are there", n, len(d.rest))
		return nil
	}
	p := d.rest[:n:n]
	d.rest = d.rest[n:]
	return p
}

// Bool reads a byte that is 0 or 1.
func (d *Decoder) Bool() bool {
	var v uint8
	d.Value(&v)
	if v > 1 {
		d.Fail("%d is no truth value", v)
	}
	return v == 1
}

// Rest takes what is left: a part of what is decoded.
func (d *Decoder) Rest() []byte {
	p := d.rest
	d.rest = nil
	return p
}

// End returns the first error; bytes that are left are one.
func (d *Decoder) End() error {
	if d.err == nil && len(d.rest) > 0 {
		d.Fail("%d bytes follow the end", len(d.rest))
	}
	return d.err
}
