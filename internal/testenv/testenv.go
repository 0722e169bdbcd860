// Package testenv is the one place where tests find out whether this host has what they need. What
// is missing skips the test, or fails it where the environment says that it must be there, so that
// a check that was meant to run is never lost in silence.
package testenv

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/cellbinary"
	"github.com/aethervm/aether/internal/guestagent"
	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/sandbox"
)

// Require ends the test because need, a word such as "DOCKER", "KVM" or "ROOT", is missing for the
// given reason: it skips, or fails if REQUIRE_<NEED>=1 or REQUIRE_ALL=1 is set.
func Require(t testing.TB, need, reason string) {
	t.Helper()
	for _, key := range []string{"REQUIRE_" + strings.ToUpper(need), "REQUIRE_ALL"} {
		if os.Getenv(key) == "1" {
			t.Fatalf("%s is set, but %s is missing: %s", key, need, reason)
		}
	}
	t.Skipf("needs %s: %s", need, reason)
}

// Root goes on only if the test runs as root; the need is "ROOT".
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Require(t, "ROOT", "run the tests as root")
	}
}

// Image is the default guest image, a Debian with Python, from this host's image store; the need is
// "IMAGE". It cannot be removed from the store while the test runs.
func Image(t testing.TB) sandbox.Image {
	t.Helper()
	store, err := image.Default()
	if err != nil {
		t.Fatal(err)
	}
	img, err := store.Resolve(image.DefaultName)
	if err != nil {
		Require(t, "IMAGE", err.Error())
	}
	hold, err := image.Hold(img)
	if err != nil {
		Require(t, "IMAGE", err.Error())
	}
	t.Cleanup(func() { _ = hold.Close() })
	return img
}

// Agent is the path of the guest agent's binary on this host; the need is "AGENT".
func Agent(t testing.TB) string {
	t.Helper()
	path, err := guestagent.Path()
	if err != nil {
		Require(t, "AGENT", err.Error()+"; run `make agent`")
	}
	return path
}

// Cell is the program that a cell's process executes; the need is "AGENT", since it is built with it.
func Cell(t testing.TB) *os.File {
	t.Helper()
	program, err := cellbinary.Open()
	if err != nil {
		Require(t, "AGENT", err.Error()+"; run `make agent`")
	}
	return program
}

// TempRun gives the test, and what it starts, a run directory of its own: it sets AETHER_RUN and
// returns the directory. Its path is short, since the names of Unix sockets below it end at 107
// bytes, which those of t.TempDir may exceed.
func TempRun(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ae-") //nolint:usetesting // t.TempDir is too long for socket names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove run directory: %v", err)
		}
	})
	// As hostdir.Run: unprivileged helpers may pass through, not list.
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AETHER_RUN", dir)
	return dir
}

// Number is what the environment has under a name, at least 1: how often or how large a test is to be. It is otherwise if
// the name is not set.
func Number(t testing.TB, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q: a number from 1 on is needed", name, text)
	}
	return n
}

// FewFiles leaves this process room for n more descriptors, until the test's end or until it is called back.
func FewFiles(t testing.TB, n int) (more func()) {
	t.Helper()
	var free []int
	for range n {
		fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		free = append(free, fd) // ascending: the kernel gives the lowest
	}
	for _, fd := range free {
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(free[n-1] + 1), Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	more = func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &old) }
	t.Cleanup(more)
	return more
}
