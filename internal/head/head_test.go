package head

import (
	"io"
	"strings"
	"testing"
)

func TestHead(t *testing.T) {
	h := New(5)
	for _, c := range []struct {
		text, kept string
		more       bool
	}{{"", "", false}, {"abc", "abc", false}, {"de", "abcde", false}, {"", "abcde", false}, {"f", "abcde", true}, {"", "abcde", true}} {
		if n, err := h.Write([]byte(c.text)); n != len(c.text) || err != nil {
			t.Errorf("%q: %d, %v", c.text, n, err)
		}
		if h.String() != c.kept || string(h.Bytes()) != c.kept || h.More() != c.more {
			t.Errorf("after %q: %q, %v", c.text, h.String(), h.More())
		}
	}
	const size = 256 << 10
	h = New(size)
	for range 10 {
		_, _ = h.Write(make([]byte, size/3))
	}
	if len(h.Bytes()) != size {
		t.Errorf("%d bytes are kept", len(h.Bytes()))
	}
}

// io.Copy takes any way to write that it finds.
func TestCopy(t *testing.T) {
	h := New(5)
	n, err := io.Copy(h, strings.NewReader("abcdefgh"))
	if n != 8 || err != nil || h.String() != "abcde" {
		t.Errorf("%q of %d, %v", h.String(), n, err)
	}
	h = New(5)
	if _, err := io.Copy(h, struct{ io.Reader }{strings.NewReader("abcdefgh")}); err != nil || h.String() != "abcde" {
		t.Errorf("%q, %v", h.String(), err)
	}
}
