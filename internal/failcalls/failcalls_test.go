package failcalls

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/testenv"
)

const childEnv = "AETHER_FAILCALLS_CHILD"

// TestMain runs the tests, or the process that is tested: it makes a directory for each line that it is sent.
func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	if err := Offer(unix.SYS_MKDIRAT, unix.SYS_EXECVE); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if lines.Text() == "exec" {
			fmt.Printf("%q\n", fmt.Sprint(exec.Command("/proc/self/exe", "-test.run", "^$").Start()))
		} else {
			fmt.Printf("%q\n", fmt.Sprint(os.Mkdir(lines.Text(), 0o700)))
		}
	}
}

func TestFail(t *testing.T) {
	testenv.Root(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	c, err := Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(line string) (answer string) {
		if err := c.Ask(line, time.Minute, &answer); err != nil {
			t.Fatal(err)
		}
		return answer
	}
	dir := t.TempDir()
	own := func(call Call) bool { return c.Own(call) && call.Number == unix.SYS_MKDIRAT }
	c.Fail(own, 2, unix.ENOSPC)
	for i, want := range []string{"<nil>", "no space left", "<nil>"} {
		if got := ask(fmt.Sprintf("%s/%d", dir, i)); !strings.Contains(got, want) {
			t.Errorf("call %d: %s, want %q", i, got, want)
		}
	}
	if failed, n, err := c.Stop(); !failed || n != 3 || err != nil {
		t.Errorf("failed: %v, %d calls, %v", failed, n, err)
	}
	c.Fail(func(call Call) bool { return !c.Own(call) && call.Number == unix.SYS_EXECVE }, 1, unix.ENOMEM)
	if got := ask("exec"); !strings.Contains(got, "cannot allocate memory") {
		t.Errorf("exec of a child: %s", got)
	}
	if failed, n, err := c.Stop(); !failed || n != 1 || err != nil {
		t.Errorf("failed: %v, %d calls, %v", failed, n, err)
	}
	if got := ask("exec"); got != "<nil>" {
		t.Errorf("afterwards: %s", got)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// The kernel's structures have these sizes: they are part of the numbers of the ioctls.
func TestLayout(t *testing.T) {
	if n, r := reflect.TypeFor[notification]().Size(), reflect.TypeFor[response]().Size(); n != 80 || r != 24 {
		t.Errorf("%d and %d bytes, not 80 and 24", n, r)
	}
}
