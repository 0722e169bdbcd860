package debian

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

func TestSources(t *testing.T) {
	const signed = "deb [signed-by=" + keyring + "] "
	targets := "http://a.invalid/debian/ bookworm contrib Debian\nhttp://b.invalid/debian/ bookworm main Debian\n" +
		"http://c.invalid/debian/ bookworm main Debian\nbroken\nhttp://d.invalid/ bookworm-security main Debian\n" +
		"http://e.invalid/ubuntu/ noble main Ubuntu\nhttp://f.invalid/ x main Docker CE\n"
	for suite, want := range map[string]string{
		"bookworm":           signed + "http://b.invalid/debian/ bookworm main\n" + signed + "http://d.invalid/ bookworm-security main\n",
		"bookworm-security":  signed + "http://d.invalid/ bookworm-security main\n",
		"bookworm-backports": signed + "http://b.invalid/debian/ bookworm-backports main\n",
		"trixie":             signed + "http://b.invalid/debian/ trixie main\n",
		"noble":              signed + "http://e.invalid/ubuntu/ noble main\n",
	} {
		if got := sources(targets, suite); got != want {
			t.Errorf("sources of %s:\n%swant:\n%s", suite, got, want)
		}
	}
	// Without package lists nobody knows whose mirror it is; that of security fixes has no releases.
	for _, targets := range []string{"", "http://a.invalid/ bookworm main\n", "http://d.invalid/ trixie-security main Debian\n"} {
		if got := sources(targets, "sid"); got != "" {
			t.Errorf("sources of sid in %q: %s", targets, got)
		}
	}
}

func TestParseDepends(t *testing.T) {
	got := parseDepends("meta\n  Depends: linux-image-6.1.0-1-cloud-amd64\n |Depends: a\n  Suggests: b\n")
	if want := []string{"linux-image-6.1.0-1-cloud-amd64", "a"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Nothing that apt reads packages from, or writes, may be the host's.
func TestArgumentsArePrivate(t *testing.T) {
	a := &Archive{dir: "/private"}
	args := a.args("update")
	for _, key := range []string{
		"Dir::State::Lists", "Dir::State::status", "Dir::Cache",
		"Dir::Etc::SourceList", "Dir::Etc::SourceParts", "Dir::Etc::Preferences", "Dir::Etc::PreferencesParts",
	} {
		if !slices.ContainsFunc(args, func(arg string) bool {
			return strings.HasPrefix(arg, key+"=/private/") || arg == key+"=/dev/null"
		}) {
			t.Errorf("%s is the host's in %q", key, args)
		}
	}
	if args[len(args)-1] != "update" {
		t.Errorf("the command is not the last of %q", args)
	}
}

func TestRun(t *testing.T) {
	if out, err := run(t.Context(), "", "sh", "-c", "echo said; echo no >&2"); out != "said\n" || err != nil {
		t.Errorf("run = %q, %v", out, err)
	}
	if _, err := run(t.Context(), "", "sh", "-c", "echo why >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("an error without its reason: %v", err)
	}
	if _, err := run(t.Context(), "", "no-such-program"); !errors.Is(err, sandbox.ErrUnavailable) {
		t.Errorf("a program that is not there: %v", err)
	}
}

// Ctrl-C ends what a program has started, too.
func TestRunEndsWithContext(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for t.Context().Err() == nil {
			if _, err := os.Stat(filepath.Join(dir, "pid")); err == nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	began := time.Now()
	_, err := run(ctx, dir, "sh", "-c", "sleep 100 & echo $! > tmp; mv tmp pid; wait")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("run = %v", err)
	}
	if took := time.Since(began); took > endPatience {
		t.Errorf("it took %v", took)
	}
	pid, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	// Killed, and perhaps not yet reaped by whoever has inherited it.
	state, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(pid)), "stat"))
	if err == nil && !strings.Contains(string(state), ") Z ") && !strings.Contains(string(state), ") X ") {
		t.Errorf("it still runs: %s", state)
	}
}

func TestUnpackOfNothing(t *testing.T) {
	if err := Unpack(t.Context(), filepath.Join(t.TempDir(), "x.deb"), t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Unpack = %v", err)
	}
}
