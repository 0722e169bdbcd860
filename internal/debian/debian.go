// Package debian downloads packages of Debian with apt, from the mirror that the host's own apt
// uses, and leaves the host's apt as it is: its sources, its package lists and what is installed.
package debian

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aethervm/aether/sandbox"
)

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// Sources returns the lines of a sources.list for a suite of Debian's component main, from where the
// host's own apt gets it. A release, such as "bookworm", comes with its updates and its security fixes
// as far as the host has them. A suite that the host does not have, such as "bookworm-backports", is
// taken from the mirror of its release, or from any of Debian's: mirrors have all suites. What is
// fetched is checked against Debian's own keys. sandbox.ErrUnavailable is wrapped if the host knows no
// mirror.
func Sources(ctx context.Context, suite string) (string, error) {
	targets, err := run(ctx, "", "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)",
		"Created-By: Packages")
	if err != nil {
		return "", err
	}
	if s := sources(targets, suite); s != "" {
		return s, nil
	}
	return "", &sandbox.Error{Op: "find Debian's mirror", Err: sandbox.ErrUnavailable,
		Detail: "apt on this host has no source for Debian " + suite, Remedy: "add one below /etc/apt/sources.list.d"}
}

func sources(targets, suite string) string {
	mirrors := map[string]string{} // the first of each suite
	anyMirror := ""
	for line := range strings.Lines(targets) {
		f := strings.Fields(line)
		if len(f) < 3 || f[2] != "main" || mirrors[f[1]] != "" {
			continue
		}
		mirrors[f[1]] = f[0]
		// The archive of security fixes, whose suites have a name of two parts, has nothing else.
		if len(f) == 4 && f[3] == "Debian" && anyMirror == "" && !strings.Contains(f[1], "-") {
			anyMirror = f[0]
		}
	}
	release, _, _ := strings.Cut(suite, "-")
	mirrors[suite] = cmp.Or(mirrors[suite], mirrors[release], anyMirror)
	if mirrors[suite] == "" {
		return ""
	}
	suites := []string{suite}
	if suite == release {
		suites = append(suites, suite+"-updates", suite+"-security")
	}
	var b strings.Builder
	for _, s := range suites {
		if mirrors[s] != "" {
			fmt.Fprintf(&b, "deb [signed-by=%s] %s %s main\n", keyring, mirrors[s], s)
		}
	}
	return b.String()
}

// Archive is an apt of its own, with its own lists, that knows one suite. Use by one goroutine.
type Archive struct {
	dir string
}

// Open fetches the package lists of a suite, such as "bookworm" or "bookworm-backports" (see Sources),
// to a temporary directory, which Close removes.
func Open(ctx context.Context, suite string) (_ *Archive, err error) {
	list, err := Sources(ctx, suite)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "aether-apt-")
	if err != nil {
		return nil, fmt.Errorf("open Debian's archive: %w", err)
	}
	a := &Archive{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("open Debian's archive: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "sources.list"), []byte(list), 0o644); err != nil {
		return nil, fmt.Errorf("open Debian's archive: %w", err)
	}
	if _, err := run(ctx, dir, "apt-get", a.args("update")...); err != nil {
		return nil, fmt.Errorf("fetch the package lists of Debian %s: %w", suite, err)
	}
	return a, nil
}

// args moves everything that apt writes or takes packages from to the archive's directory. The proxy
// and the like stay those of the host. Arguments count more than any file, and errors show them.
func (a *Archive) args(command ...string) []string {
	args := []string{"-qq"}
	for _, o := range [][2]string{
		{"Dir::Etc::SourceList", a.dir + "/sources.list"}, {"Dir::Etc::SourceParts", "/dev/null"},
		{"Dir::Etc::Preferences", "/dev/null"}, {"Dir::Etc::PreferencesParts", "/dev/null"},
		{"Dir::State::Lists", a.dir + "/lists"}, {"Dir::Cache", a.dir + "/cache"},
		// What is installed may be of another distribution, whose names mean something else.
		{"Dir::State::status", "/dev/null"},
		{"APT::Architecture", "amd64"}, {"APT::Architectures", "amd64"},
		// apt would hand downloads to a user that cannot write to a private directory.
		{"APT::Sandbox::User", "root"},
		{"Acquire::Languages", "none"}, {"Acquire::Retries", "3"}, {"APT::Update::Error-Mode", "any"},
		{"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false"},
	} {
		args = append(args, "-o", o[0]+"="+o[1])
	}
	return append(args, command...)
}

// Close removes the lists.
func (a *Archive) Close() error { return os.RemoveAll(a.dir) }

// Depends returns the packages that the newest version of a package depends on directly.
func (a *Archive) Depends(ctx context.Context, pkg string) ([]string, error) {
	out, err := run(ctx, a.dir, "apt-cache", a.args("depends", "--", pkg)...)
	if err != nil {
		return nil, err
	}
	return parseDepends(out), nil
}

func parseDepends(out string) []string {
	var pkgs []string
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimLeft(line, " |"), "Depends: "); ok {
			pkgs = append(pkgs, strings.TrimSpace(name))
		}
	}
	return pkgs
}

// Download puts the newest versions of packages, without what they depend on, in the directory dir
// and returns the paths of their files, sorted.
func (a *Archive) Download(ctx context.Context, dir string, packages ...string) ([]string, error) {
	// In a directory of its own, so that what was there before is not taken for a result.
	work, err := os.MkdirTemp(dir, ".download-")
	if err != nil {
		return nil, fmt.Errorf("download packages: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	if _, err := run(ctx, work, "apt-get", a.args(append([]string{"download", "--"}, packages...)...)...); err != nil {
		return nil, err
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != len(packages) {
		return nil, fmt.Errorf("apt-get download left %d files for %d packages", len(debs), len(packages))
	}
	for i, deb := range debs {
		debs[i] = filepath.Join(dir, filepath.Base(deb))
		if err := os.Rename(deb, debs[i]); err != nil {
			return nil, fmt.Errorf("download packages: %w", err)
		}
	}
	slices.Sort(debs)
	return debs, nil
}

// Download is Open, Archive.Download and Close. It serves whoever needs packages of one suite once:
// Download(ctx, dir, "bookworm-backports", "qemu-system-x86").
func Download(ctx context.Context, dir, suite string, packages ...string) (_ []string, err error) {
	a, err := Open(ctx, suite)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	return a.Download(ctx, dir, packages...)
}

// Unpack puts the files of a package, a .deb file, below the directory dir.
func Unpack(ctx context.Context, deb, dir string) error {
	if _, err := os.Stat(deb); err != nil { // dpkg-deb would take "-x" for an option
		return fmt.Errorf("unpack package: %w", err)
	}
	deb, err := filepath.Abs(deb)
	if err != nil {
		return fmt.Errorf("unpack package: %w", err)
	}
	_, err = run(ctx, dir, "dpkg-deb", "-x", deb, dir)
	return err
}
