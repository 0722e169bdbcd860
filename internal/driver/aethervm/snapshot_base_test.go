package aethervm

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/sandbox"
)

// leaning writes a file that leans on others.
func leaning(t *testing.T, dir, word string, sums ...[32]byte) {
	t.Helper()
	w, err := snapshot.Create(filepath.Join(dir, machineName))
	if err != nil {
		t.Fatal(err)
	}
	page := bytes.Repeat([]byte(word), snapshot.PageSize/len(word))
	if _, err := w.WriteMemory(t.Context(), []snapshot.Extent{{Size: snapshot.PageSize, Source: bytes.NewReader(page)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(snapshot.About{VCPUs: 1, MemoryMiB: 1, Bases: sums}, []byte("state"), nil); err != nil {
		t.Fatal(err)
	}
}

// known checks that a base is known to be whole in a directory.
func knownBase(t *testing.T, dir string, b base) bool {
	t.Helper()
	f, err := snapshot.Open(filepath.Join(dir, baseName(b.sum)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	now, err := stampOf(f.File(), f.Digest())
	if err != nil {
		t.Fatal(err)
	}
	return readStamp(dir, stampNameOf(baseName(b.sum))).same(now)
}

// A base stays for as long as a directory has it, and is known to be whole in each.
func TestBaseLinks(t *testing.T) {
	template, first, second := t.TempDir(), t.TempDir(), t.TempDir()
	machineFile(t, template, "x")
	f := opened(t, template)
	if err := verifyOnce(t.Context(), template, stampName, f); err != nil {
		t.Fatal(err)
	}
	all, err := newBases(f)
	if err != nil {
		t.Fatal(err)
	}
	b := all.all()[0]
	for _, dir := range []string{first, second} {
		if ok, err := b.link(dir); err != nil || !ok {
			t.Fatal(ok, err)
		}
		leaning(t, dir, "y", b.sum)
		if !knownBase(t, dir, b) {
			t.Errorf("its base would be read again: %+v", readStamp(dir, stampNameOf(baseName(b.sum))))
		}
	}
	// The template's own stamp is as good as before, though its file has more names now.
	now, err := stampOf(f.File(), f.Digest())
	if err != nil {
		t.Fatal(err)
	}
	if before := readStamp(template, stampName); !before.same(now) {
		t.Errorf("%+v, now %+v", before, now)
	}
	if err := removeKept(template); err != nil {
		t.Fatal(err)
	}
	if err := removeKept(first); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(first); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	opening := opened(t, second)
	list, err := openBases(second, opening)
	if err != nil || len(list) != 1 || list[0].Sum() != b.sum || !knownBase(t, second, b) {
		t.Fatalf("%v, %v", list, err)
	}
	if err := list[0].Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if err := closeFiles(list); err != nil {
		t.Error(err)
	}
	// Once nobody has it, no more can be made of it, which is no error.
	if err := removeKept(second); err != nil {
		t.Fatal(err)
	}
	if ok, err := b.link(first); ok || err != nil {
		t.Errorf("of a file that is gone: %v, %v", ok, err)
	}
	if err := errors.Join(all.hold().release(), all.release()); err != nil {
		t.Error(err)
	}
	if all.all() != nil {
		t.Error("released and still there")
	}
	if _, err := b.file.Stat(); err == nil {
		t.Error("released and still open")
	}
}

// A base that is missing, another one, damaged, of another version or no file is refused before there is a machine.
func TestBaseRefused(t *testing.T) {
	template := t.TempDir()
	machineFile(t, template, "x")
	f := opened(t, template)
	path := filepath.Join(template, machineName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	name := baseName(f.Sum())
	other := t.TempDir()
	machineFile(t, other, "z")
	for what, c := range map[string]struct {
		make func(dir string) error
		want error
	}{
		"missing":          {func(string) error { return nil }, snapshot.ErrFormat},
		"another":          {func(dir string) error { return os.Link(filepath.Join(other, machineName), filepath.Join(dir, name)) }, snapshot.ErrChecksum},
		"a link":           {func(dir string) error { return os.Symlink(path, filepath.Join(dir, name)) }, snapshot.ErrFormat},
		"a FIFO":           {func(dir string) error { return unix.Mkfifo(filepath.Join(dir, name), 0o600) }, snapshot.ErrFormat},
		"a directory":      {func(dir string) error { return os.Mkdir(filepath.Join(dir, name), 0o700) }, snapshot.ErrFormat},
		"a header damaged": {func(dir string) error { return writeWith(dir, name, whole, 40) }, snapshot.ErrChecksum},
		"of a version":     {func(dir string) error { return writeWith(dir, name, whole, 9) }, snapshot.ErrVersion},
		"cut off":          {func(dir string) error { return os.WriteFile(filepath.Join(dir, name), whole[:4096], 0o600) }, snapshot.ErrTruncated},
	} {
		dir := t.TempDir()
		leaning(t, dir, "y", f.Sum())
		if err := c.make(dir); err != nil {
			t.Fatal(err)
		}
		list, err := openBases(dir, opened(t, dir))
		if !errors.Is(err, c.want) || list != nil {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
		if e, ok := errors.AsType[*sandbox.Error](keptError(t.Context(), "restore", err)); !ok || e.Remedy == "" {
			t.Errorf("%s: %v", what, e)
		}
	}
	// Its memory is read once, and again when somebody has written to it.
	dir := t.TempDir()
	leaning(t, dir, "y", f.Sum())
	if err := writeWith(dir, name, whole, len(whole)/2); err != nil {
		t.Fatal(err)
	}
	list, err := openBases(dir, opened(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := verifyOnce(t.Context(), dir, stampNameOf(name), list[0]); !errors.Is(err, snapshot.ErrChecksum) && whole[len(whole)/2] != 0 {
		t.Errorf("its memory: %v", err)
	}
	if err := closeFiles(list); err != nil {
		t.Error(err)
	}
	// Who has had it open since, and finds that somebody has written to it, does not pass it on.
	all, err := newBases(f)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = all.release() }()
	time.Sleep(20 * time.Millisecond) // longer than the kernel's clock of files takes to go on
	damage(t, template)
	if ok, err := all.all()[0].link(t.TempDir()); ok || !errors.Is(err, snapshot.ErrChecksum) {
		t.Errorf("a base that was written to: %v, %v", ok, err)
	}
}

// writeWith writes a file with a bit changed.
func writeWith(dir, name string, content []byte, at int) error {
	b := bytes.Clone(content)
	b[at] ^= 1
	return os.WriteFile(filepath.Join(dir, name), b, 0o600)
}

func TestChooseBases(t *testing.T) {
	from := []base{{sum: [32]byte{0}, size: 100}, {sum: [32]byte{1}, size: 1000}, {sum: [32]byte{2}, size: 100}, {sum: [32]byte{3}, size: 100}, {sum: [32]byte{4}, size: 100}}
	for _, c := range []struct {
		shared []uint64
		want   string
	}{
		{[]uint64{90, 900, 24, 0, 80}, "1 0 4"}, // one in use too little, one not at all
		{[]uint64{90, 200, 25, 0, 0}, "0 2"},
		{[]uint64{30, 300, 40, 50, 60}, "1 4 3"}, // no more than are possible
		{[]uint64{0, 0, 0, 0, 0}, ""},
	} {
		var got []string
		for _, b := range choose(from, c.shared) {
			got = append(got, string('0'+b.sum[0]))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v: %v, want %s", c.shared, got, c.want)
		}
	}
}

func TestIsKept(t *testing.T) {
	name := baseName([32]byte{7})
	for _, n := range []string{machineName, stampName, name, stampNameOf(name)} {
		if !isKept(n) {
			t.Errorf("%s is not", n)
		}
	}
	for _, n := range []string{"", "base-", "base-xyz", name + "0", "machine.txt", ".stamp", "other"} {
		if isKept(n) {
			t.Errorf("%s is", n)
		}
	}
}
