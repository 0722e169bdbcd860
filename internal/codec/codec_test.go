package codec

import (
	"bytes"
	"errors"
	"testing"
)

type point struct {
	X, Y int32
	On   bool
}

func encode() []byte {
	b := Append(nil, point{X: 1, Y: -2, On: true})
	b = AppendBytes(b, []byte("abc"))
	b = Append(AppendCount(b, 2), [2]uint64{7, 8})
	return Append(b, true)
}

func decode(b []byte) (p point, s []byte, list []uint64, on bool, err error) {
	d := NewDecoder(b)
	d.Value(&p)
	s = d.Bytes(3)
	for range d.Count(2) {
		var v uint64
		d.Value(&v)
		list = append(list, v)
	}
	on = d.Bool()
	return p, s, list, on, d.End()
}

func TestRoundTrip(t *testing.T) {
	p, s, list, on, err := decode(encode())
	if err != nil || p != (point{1, -2, true}) || string(s) != "abc" || len(list) != 2 || list[1] != 8 || !on {
		t.Errorf("%+v %q %v %v: %v", p, s, list, on, err)
	}
}

func TestMalformed(t *testing.T) {
	whole := encode()
	for n := range whole {
		if _, _, _, _, err := decode(whole[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("of %d bytes: %v", n, err)
		}
	}
	if _, _, _, _, err := decode(append(bytes.Clone(whole), 0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("with a byte more: %v", err)
	}
	for _, b := range [][]byte{{4, 0, 0, 0, 'a', 'b', 'c', 'd'}, {0xff, 0xff, 0xff, 0xff}, {3, 0, 0, 0}} {
		d := NewDecoder(b)
		if got := d.Bytes(3); got != nil || !errors.Is(d.Err(), ErrMalformed) {
			t.Errorf("%x: %q, %v", b, got, d.Err())
		}
	}
	d := NewDecoder([]byte{2})
	if d.Bool() && d.End() == nil {
		t.Error("2 is true")
	}
}

func TestRest(t *testing.T) {
	d := NewDecoder([]byte{1, 'a', 'b'})
	if got, rest := d.Bool(), d.Rest(); !got || string(rest) != "ab" || d.End() != nil {
		t.Errorf("%v, %q, %v", got, rest, d.Err())
	}
	if d.Bool(); d.Err() == nil || d.Rest() != nil {
		t.Error("something follows the rest")
	}
}
