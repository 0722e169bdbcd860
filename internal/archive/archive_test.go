package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func write(t *testing.T, name, content string, perm fs.FileMode) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), perm), os.Chmod(name, perm)); err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	at := time.Date(2001, 2, 3, 4, 5, 6, 7000, time.UTC)
	write(t, from+"/a", "plain", 0o640)
	write(t, from+"/dir/sub/b", strings.Repeat("large", 100_000), 0o755)
	write(t, from+"/"+strings.Repeat("n", 200)+"/\u00e9", "", 0o600)
	for _, err := range []error{
		os.Mkdir(from+"/locked", 0o755), os.WriteFile(from+"/locked/in", nil, 0o644), os.Chmod(from+"/locked", 0o500), os.Mkdir(from+"/empty", 0o711),
		os.Symlink("../outside", from+"/dir/link"), os.Symlink("a", from+"/dangling"), unix.Mkfifo(from+"/fifo", 0o600),
		os.Chtimes(from+"/a", at, at), os.Chtimes(from+"/dir", at, at), os.Chmod(from, 0o751), os.Chtimes(from, at, at),
		os.Chmod(from+"/dir/sub/b", 0o755|fs.ModeSetuid),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var tarball bytes.Buffer
	report, err := Pack(&tarball, from)
	if err != nil || report.Files != 4 || report.Bytes != 500_005 || len(report.Skipped) != 1 || report.Skipped[0].Path != "fifo" || report.Err() == nil {
		t.Errorf("pack: %+v, %v", report, err)
	}
	write(t, to+"/a", "what was there before", 0o600)
	report, err = Unpack(&tarball, to, Options{Fresh: true})
	if err != nil || report.Files != 4 || report.Bytes != 500_005 || report.Err() != nil {
		t.Errorf("unpack: %+v, %v", report, err)
	}
	for name, want := range map[string]string{"a": "plain", "dir/sub/b": strings.Repeat("large", 100_000)} {
		if got, err := os.ReadFile(filepath.Join(to, name)); string(got) != want || err != nil {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for name, mode := range map[string]fs.FileMode{"a": 0o640, "dir/sub/b": 0o755, "locked": fs.ModeDir | 0o500, "empty": fs.ModeDir | 0o711, ".": fs.ModeDir | 0o751} {
		if info, err := os.Lstat(filepath.Join(to, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	for _, name := range []string{"a", "dir", "."} {
		if info, err := os.Lstat(filepath.Join(to, name)); err != nil || !info.ModTime().Equal(at) {
			t.Errorf("%s: %v, %v", name, info.ModTime(), err)
		}
	}
	if target, err := os.Readlink(to + "/dir/link"); err != nil || target != "../outside" {
		t.Errorf("link: %q, %v", target, err)
	}
	left, err := filepath.Glob(to + "/.aether-cp-*")
	if err != nil || len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

// entry is one of an archive that is made up.
type entry struct {
	tar.Header
	content string
}

func made(t testing.TB, entries ...entry) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.Typeflag == 0 {
			e.Typeflag = tar.TypeReg
		}
		if e.Size == 0 {
			e.Size = int64(len(e.content))
		}
		e.Mode |= 0o644
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, e.content) // it may be cut off on purpose
	}
	_ = w.Close()
	return b.Bytes()
}

func file(name, content string) entry { return entry{tar.Header{Name: name}, content} }

// TestHostileArchives must not write outside, whatever is in them.
func TestHostileArchives(t *testing.T) {
	link := func(name, target string) entry {
		return entry{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}, ""}
	}
	for name, c := range map[string]struct {
		entries []entry
		refused bool // else something is skipped
	}{
		"parent":               {[]entry{file("../outside", "x")}, true},
		"parent in the middle": {[]entry{file("a/../../outside", "x")}, true},
		"absolute":             {[]entry{file("/outside", "x")}, true},
		"empty name":           {[]entry{file("", "x")}, true},
		"the directory":        {[]entry{file(".", "x")}, false},
		"through a link":       {[]entry{link("l", ".."), file("l/outside", "x")}, false},
		"through two links":    {[]entry{link("k", "."), link("k/l", ".."), file("l/outside", "x")}, false},
		"absolute link":        {[]entry{link("l", "/"), file("l/tmp/outside", "x")}, false},
		"link as directory":    {[]entry{link("l", ".."), {tar.Header{Name: "l", Typeflag: tar.TypeDir}, ""}, file("l/outside", "x")}, false},
		"hard link outside":    {[]entry{{tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "../victim"}, ""}}, false},
		"hard link by a link":  {[]entry{link("l", ".."), {tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "l/victim"}, ""}, file("h", "x")}, false},
		"device":               {[]entry{{tar.Header{Name: "d", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""}}, false},
		"pipe":                 {[]entry{{tar.Header{Name: "p", Typeflag: tar.TypeFifo}, ""}}, false},
		"too large":            {[]entry{file("a", strings.Repeat("x", 600)), file("b", strings.Repeat("x", 600))}, true},
		"says it is huge":      {[]entry{{tar.Header{Name: "a", Size: 1 << 50}, ""}}, true},
		"too many":             {[]entry{file("a", ""), file("b", ""), file("c", ""), file("d", ""), file("e", "")}, true},
		"directory is a file":  {[]entry{file("a", "x"), file("a/b", "x")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			outer := t.TempDir()
			dir := filepath.Join(outer, "dir")
			write(t, filepath.Join(outer, "victim"), "safe", 0o644)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			report, err := Unpack(bytes.NewReader(made(t, c.entries...)), dir, Options{Bytes: 1000, Entries: 4})
			hostile := errors.Is(err, ErrHostile)
			if c.refused != hostile || !hostile && (err != nil || report.Err() == nil) {
				t.Errorf("%+v, %v", report, err)
			}
			checkOutside(t, outer)
		})
	}
}

func checkOutside(t *testing.T, outer string) {
	t.Helper()
	entries, err := os.ReadDir(outer)
	if err != nil || len(entries) != 2 {
		t.Errorf("outside: %v, %v", entries, err)
	}
	if content, err := os.ReadFile(filepath.Join(outer, "victim")); string(content) != "safe" {
		t.Errorf("the file outside has %q, %v", content, err)
	}
}

func TestBrokenArchives(t *testing.T) {
	whole := made(t, file("a", strings.Repeat("x", 5000)))
	for _, size := range []int{100, 512, 1000} {
		dir := t.TempDir()
		if _, err := Unpack(bytes.NewReader(whole[:size]), dir, Options{}); err == nil {
			t.Errorf("cut at %d: no error", size)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("cut at %d: %v is there", size, left)
		}
	}
	if _, err := Unpack(strings.NewReader(strings.Repeat("no archive", 1000)), t.TempDir(), Options{}); err == nil {
		t.Error("what is no archive was unpacked")
	}
}

func TestPackTells(t *testing.T) {
	if _, err := Pack(io.Discard, filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	dir := t.TempDir()
	write(t, dir+"/a", strings.Repeat("x", 1<<20), 0o600)
	broken := errors.New("broken")
	if _, err := Pack(failing{broken}, dir); !errors.Is(err, broken) {
		t.Errorf("a writer that fails: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// FuzzUnpack reads what a client, or a guest, may send.
func FuzzUnpack(f *testing.F) {
	f.Add(made(f, file("a", "x"), entry{tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, ""}, file("l/outside", "x")))
	f.Add(made(f, entry{tar.Header{Name: "d/", Typeflag: tar.TypeDir}, ""}, entry{tar.Header{Name: "d/h", Typeflag: tar.TypeLink, Linkname: "../victim"}, ""}))
	f.Fuzz(func(t *testing.T, data []byte) {
		outer := t.TempDir()
		dir := filepath.Join(outer, "dir")
		write(t, filepath.Join(outer, "victim"), "safe", 0o644)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		report, _ := Unpack(bytes.NewReader(data), dir, Options{Bytes: 1 << 20, Entries: 100, Fresh: true})
		if report.Bytes > 1<<20 || report.Entries > 100 {
			t.Errorf("%+v", report)
		}
		_ = os.Chmod(dir, 0o755)
		checkOutside(t, outer)
	})
}

// Directories that were there keep their permissions and times, and links of the directory's own lead nowhere else.
func TestUnpackOverWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/private", 0o700), os.Mkdir(dir+"/outside", 0o755), os.Mkdir(dir+"/in", 0o755), os.Symlink("../outside", dir+"/in/results")); err != nil {
		t.Fatal(err)
	}
	wide := entry{tar.Header{Name: "private/", Typeflag: tar.TypeDir, Mode: 0o777}, ""}
	if report, err := Unpack(bytes.NewReader(made(t, wide, file("private/a", "x"))), dir, Options{}); err != nil || report.Files != 1 {
		t.Errorf("%+v, %v", report, err)
	}
	if info, err := os.Stat(dir + "/private"); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if report, err := Unpack(bytes.NewReader(made(t, file("results/a", "x"))), dir+"/in", Options{}); err != nil || report.Err() == nil {
		t.Errorf("%+v, %v", report, err)
	}
	if left, err := os.ReadDir(dir + "/outside"); err != nil || len(left) != 0 {
		t.Errorf("outside: %v, %v", left, err)
	}
}

// What is larger than a copy may be is left out, and not all else with it.
func TestPackLeavesOutWhatIsTooLarge(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a", "small", 0o600)
	write(t, dir+"/huge", "", 0o600)
	if err := os.Truncate(dir+"/huge", MaxBytes+1); err != nil {
		t.Skip(err)
	}
	report, err := Pack(io.Discard, dir)
	if err != nil || report.Files != 1 || len(report.Skipped) != 1 || report.Skipped[0].Path != "huge" {
		t.Errorf("%+v, %v", report, err)
	}
	if report, err = Pack(io.Discard, "/proc"); err != nil || report.Files != 0 || report.Err() == nil {
		t.Errorf("/proc: %+v, %v", report, err)
	}
}

func TestForeignReportIsBounded(t *testing.T) {
	r := Report{Files: -1, Bytes: -1, SkippedMore: 1 << 40}
	for range 100 {
		r.Skipped = append(r.Skipped, Skipped{strings.Repeat("p", 1<<16), "\xff"})
	}
	r.Bound()
	if len(r.Skipped) != maxSkipped || len(r.Skipped[0].Path) > maxWhy || r.Files != 0 || r.Bytes != 0 || r.SkippedMore > 2*MaxEntries {
		t.Errorf("%d, %+v", len(r.Skipped), r.SkippedMore)
	}
}
