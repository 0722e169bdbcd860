package agentsandbox

import (
	"testing"

	"github.com/aethervm/aether/internal/tail"
)

func TestEndOf(t *testing.T) {
	tl := tail.New(TailSize)
	_, _ = tl.Write([]byte("booting\nKernel panic\n"))
	if got := EndOf(tl, 1); got != "Kernel panic" {
		t.Errorf("last line %q", got)
	}
	_, _ = tl.Write([]byte("registers\nmore\nmore\n"))
	if got := EndOf(tl, 2); got != "Kernel panic | registers" {
		t.Errorf("after a panic: %q", got)
	}
	tl = tail.New(TailSize)
	_, _ = tl.Write([]byte("one\n\n\x1b[2Jtwo\xff\nthree\n"))
	if got := EndOf(tl, 2); got != "[2Jtwo | three" {
		t.Errorf("last lines %q", got)
	}
}
