package tail

import (
	"slices"
	"testing"
)

func TestKeepsTheEnd(t *testing.T) {
	const size = 8 << 10
	tl := New(size)
	for range 1000 {
		if _, err := tl.Write([]byte("a line of the kernel's log\r\n\x1b[31m\n")); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := tl.Write(append(make([]byte, 3*size), "\nKernel panic\n"...)); err != nil || n != 3*size+14 {
		t.Fatalf("wrote %d, %v", n, err)
	}
	if len(tl.buf) > size {
		t.Errorf("%d bytes are kept", len(tl.buf))
	}
	if got := tl.Last(1); got != "Kernel panic" || !tl.Contains("panic") {
		t.Errorf("last line %q", got)
	}
}

func TestLinesAreClean(t *testing.T) {
	tl := New(100)
	_, _ = tl.Write([]byte("one\n\n\x1b[2Jtwo\xff\nthree\n"))
	if got := tl.Last(2); got != "[2Jtwo | three" {
		t.Errorf("last lines %q", got)
	}
	if got := tl.Lines(); !slices.Equal(got, []string{"one", "[2Jtwo", "three"}) {
		t.Errorf("lines %q", got)
	}
}
