package aethervm

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// A cell is killed at a random moment of a fork: the original's in every second round, else one that begins or waits to. The
// fork fails, or its copies are whole; who was not killed goes on. AETHER_TEST_KILLS is how often.
func TestKilledForks(t *testing.T) {
	rounds := testenv.Number(t, "AETHER_TEST_KILLS", 2)
	d := open(t)
	var original *Sandbox
	var took time.Duration
	failed := 0
	for round := range rounds {
		if original == nil {
			original = create(t, d)
			sh(t, original, "echo before >/root/word")
			begin := time.Now()
			list, err := original.Fork(bounded(t), 1) // the first one copies most
			if err := errors.Join(err, closeSandboxes(list)); err != nil {
				t.Fatal(err)
			}
			took = time.Since(begin)
		}
		mine, victim := original.machine.cell.PID(), 0
		later := rand.N(took)
		struck := make(chan struct{})
		go func() {
			defer close(struck)
			time.Sleep(later)
			victim = mine
			if others := slices.DeleteFunc(cells(t), func(pid int) bool { return pid == mine }); round%2 == 1 && len(others) > 0 {
				victim = others[rand.N(len(others))]
			}
			_ = unix.Kill(victim, unix.SIGKILL)
		}()
		list, err := original.Fork(bounded(t), 2)
		<-struck
		t.Logf("round %d: after %v, the original: %v: %v", round, later.Round(time.Millisecond), victim == mine, err)
		if err != nil {
			failed++
			if _, ok := errors.AsType[*sandbox.Error](err); !ok || list != nil {
				t.Errorf("round %d: %v, %v", round, list, err)
			}
			if errors.Is(err, sandbox.ErrDead) && victim != mine {
				t.Errorf("round %d: the original is said to be dead: %v", round, err)
			}
		}
		for _, c := range list {
			var out strings.Builder
			exit, err := c.Exec(bounded(t), sandbox.Cmd{Args: []string{"cat", "/root/word"}, Stdout: &out})
			if killed := errors.Is(err, sandbox.ErrDead); !killed && (err != nil || !exit.Success() || out.String() != "before\n") || killed && victim == mine {
				t.Errorf("round %d: a copy: %v, %q, %v", round, exit, out.String(), err)
			}
		}
		if err := closeSandboxes(list); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		if victim == mine {
			_, err := original.Exec(bounded(t), sandbox.Cmd{Args: []string{"true"}})
			dead(t, original, err, "killed")
			original = nil
		} else if got := sh(t, original, "cat /root/word"); got != "before" {
			t.Fatalf("round %d: the original says %q", round, got)
		}
	}
	t.Logf("%d kills, %d forks failed", rounds, failed)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if left := leftovers(t); len(left) > 0 {
		t.Errorf("left: %s", strings.Join(left, ", "))
	}
}
