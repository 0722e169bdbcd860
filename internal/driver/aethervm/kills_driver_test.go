package aethervm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/testenv"
)

// A process that forks, restores and makes templates is killed at a random moment; a sweep then removes what is left, and
// the next driver works. AETHER_TEST_KILLS is how often.
func TestKilledDrivers(t *testing.T) {
	available(t)
	testenv.TempRun(t)
	rounds := testenv.Number(t, "AETHER_TEST_KILLS", 2)
	img, err := json.Marshal(testenv.Image(t))
	if err != nil {
		t.Fatal(err)
	}
	tempTemplates(t)
	for round := range rounds {
		dir := t.TempDir()
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), churnEnv+"="+dir, faultsEnv+"_IMAGE="+string(img))
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		later := rand.N(6 * time.Second)
		time.Sleep(later)
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if err != nil || line != "ready\n" {
			t.Fatalf("it says %q, %v", line, err)
		}
		d, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		n, err := d.Sweep(bounded(t))
		if err != nil {
			t.Errorf("round %d, after %v: sweep: %v", round, later, err)
		}
		t.Logf("round %d: after %v: swept %d", round, later, n)
		if left := leftovers(t); len(left) > 0 {
			t.Errorf("round %d, after %v: left: %s", round, later, left)
		}
		list, err := d.Templates(t.Context())
		if err != nil {
			t.Errorf("round %d: templates: %v", round, err)
		}
		for _, tmpl := range list { // what has a name is whole
			copies, err := d.ForkTemplate(bounded(t), tmpl.Name, 1)
			if err == nil {
				if got := sh(t, copies[0], "cat /root/word"); got != "before" {
					t.Errorf("round %d: a copy says %q", round, got)
				}
			}
			if err := errors.Join(err, closeSandboxes(copies), d.RemoveTemplate(t.Context(), tmpl.Name)); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

const churnEnv = "AETHER_AETHERVM_CHURN"

func churnMain() {
	f := &faultDriver{dir: os.Getenv(churnEnv)}
	err := json.Unmarshal([]byte(os.Getenv(faultsEnv+"_IMAGE")), &f.image)
	if err == nil {
		f.ctx = context.Background()
		if err = f.begin(); err == nil {
			fmt.Println("ready")
		}
	}
	for err == nil {
		for _, do := range []func() error{f.fork, f.snapshot, f.restore, f.forkTemplate} {
			err = errors.Join(err, do())
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
