package aethervm

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// waitParked waits until so many copies are ready.
func waitParked(t *testing.T, d *Driver, n int) []*Sandbox {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		d.parked.mu.Lock()
		ready := append([]*Sandbox(nil), d.parked.ready...)
		d.parked.mu.Unlock()
		if len(ready) == n {
			return ready
		}
		if time.Since(begin) > 2*time.Minute {
			t.Fatalf("%d copies are parked, not %d", len(ready), n)
		}
	}
}

// Copies of a template that is copied again and again are made ahead. They are as good as others: each is somebody else,
// knows the time, and has what the template has. One that was killed meanwhile is replaced.
func TestParked(t *testing.T) {
	d := open(t)
	img := testenv.Image(t)
	tempTemplates(t)
	if _, err := d.CreateTemplate(bounded(t), sandbox.TemplateSpec{Name: "parked", Spec: sandbox.Spec{Image: img, VCPUs: vcpus(t)},
		WarmUp: []sandbox.Cmd{{Args: []string{"sh", "-c", clocks}}, {Args: []string{"sh", "-c", "echo template >/root/word"}}}}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	fork := func() *Sandbox {
		t.Helper()
		begin := time.Now()
		list, err := d.ForkTemplate(bounded(t), "parked", 1)
		if err != nil {
			t.Fatal(err)
		}
		c := list[0].(*Sandbox)
		t.Logf("a copy after %v", time.Since(begin))
		checkClocks(t, c)
		if got := sh(t, c, "cat /root/word; hostname"); got != "template\n"+c.ID() {
			t.Errorf("it says %q, and is %s", got, c.ID())
		}
		for _, n := range strings.Fields(sh(t, c, who)) {
			if seen[n] {
				t.Errorf("%s occurs twice", n)
			}
			seen[n] = true
		}
		return c
	}
	copies := []sandbox.Sandbox{fork()}
	time.Sleep(2 * parkDelay)
	waitParked(t, d, 0) // once is not often
	copies = append(copies, fork())
	ready := waitParked(t, d, maxParked)
	c := fork()
	if c != ready[len(ready)-1] {
		t.Error("the copy is none that was made ahead")
	}
	copies = append(copies, c)
	for _, s := range waitParked(t, d, maxParked) {
		if err := unix.Kill(s.machine.cell.PID(), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	copies = append(copies, fork())
	waitParked(t, d, maxParked)
	time.Sleep(3 * time.Second) // for the clocks
	copies = append(copies, fork())
	if err := d.RemoveTemplate(t.Context(), "parked"); err != nil {
		t.Fatal(err)
	}
	waitParked(t, d, 0)
	if err := closeSandboxes(copies); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if left := leftovers(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
