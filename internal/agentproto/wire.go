package agentproto

import (
	"encoding/binary"
	"fmt"
)

// Payloads are sequences of integers (varints) and strings (a length and bytes).

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

// decoder takes a payload apart. After the first error it yields zero values, so that only the end
// has to be checked.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrProtocol, what)
	}
	d.rest = nil
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.fail("too short")
		return 0
	}
	v := d.rest[0]
	d.rest = d.rest[1:]
	return v
}

// fill takes as many bytes as b has.
func (d *decoder) fill(b []byte) {
	if len(d.rest) < len(b) {
		d.fail("too short")
		return
	}
	d.rest = d.rest[copy(b, d.rest):]
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail("bad integer")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail("bad integer")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// bounded returns an integer that is at most limit.
func (d *decoder) bounded(limit uint64) uint64 {
	v := d.uint()
	if v > limit {
		d.fail("integer out of range")
		return 0
	}
	return v
}

func (d *decoder) string() string {
	n := d.uint()
	if n > uint64(len(d.rest)) {
		d.fail("string longer than its frame")
		return ""
	}
	s := string(d.rest[:n])
	d.rest = d.rest[n:]
	return s
}

func (d *decoder) strings() []string {
	n := d.uint()
	if n > uint64(len(d.rest)) { // each takes at least the byte of its length
		d.fail("list longer than its frame")
		return nil
	}
	var list []string
	for range n {
		list = append(list, d.string())
	}
	return list
}

// end returns the first error; bytes that are left are one.
func (d *decoder) end() error {
	if d.err == nil && len(d.rest) > 0 {
		d.fail("bytes left over")
	}
	return d.err
}
