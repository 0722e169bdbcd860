package aethervm

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// With few descriptors left a fork and a snapshot are refused for that, or whole; the programs of the original do not stand still.
func TestFewDescriptors(t *testing.T) {
	d := open(t)
	original := create(t, d)
	sh(t, original, "echo before >/root/word")
	refused := 0
	for _, n := range []int{1, 2, 3, 4, 5, 6, 7, 8, 10, 14, 18} {
		dir := t.TempDir()
		more := testenv.FewFiles(t, n)
		list, err := original.Fork(bounded(t), 1)
		snap, snapErr := original.Snapshot(bounded(t), dir)
		more()
		for what, err := range map[string]error{"fork": err, "snapshot": snapErr} {
			if err == nil {
				continue
			}
			refused++
			if e, ok := errors.AsType[*sandbox.Error](err); !ok || !errors.Is(err, sandbox.ErrNoSpace) || e.Remedy == "" || !strings.Contains(err.Error(), unix.EMFILE.Error()) {
				t.Errorf("room for %d: %s: %v", n, what, err)
			}
		}
		for _, c := range list {
			if got := sh(t, c, "cat /root/word"); got != "before" {
				t.Errorf("room for %d: a copy says %q", n, got)
			}
		}
		if got := sh(t, original, "cat /root/word"); got != "before" {
			t.Fatalf("room for %d: the original says %q", n, got)
		}
		err = closeSandboxes(list)
		if snapErr == nil {
			err = errors.Join(err, d.RemoveSnapshot(t.Context(), snap))
		}
		if err != nil {
			t.Errorf("room for %d: %v", n, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("room for %d: left: %v, %v", n, left, err)
		}
	}
	t.Logf("refused %d times", refused)
	if refused < 4 {
		t.Errorf("refused %d times only", refused)
	}
}
