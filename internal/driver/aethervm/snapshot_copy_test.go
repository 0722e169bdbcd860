package aethervm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// basesIn are the bases that a directory has.
func basesIn(t *testing.T, dir string) (list []string) {
	t.Helper()
	f := opened(t, dir)
	for _, sum := range f.About.Bases {
		list = append(list, baseName(sum))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), basePrefix) && !strings.HasSuffix(e.Name(), ".stamp") {
			found++
		}
	}
	if found != len(list) {
		t.Errorf("%d bases are there, %d are named", found, len(list))
	}
	return list
}

// saveTimed takes a snapshot and tells what it costs.
func saveTimed(t *testing.T, b sandbox.Sandbox, what string) sandbox.Snapshot {
	t.Helper()
	dir := t.TempDir()
	begin := time.Now()
	snap, err := b.(*Sandbox).Snapshot(bounded(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	f := opened(t, dir)
	_, memory := f.Memory()
	t.Logf("%s: %.1f MiB on disk, %.1f MiB of memory written, %d bases, after %v", what, float64(snap.Bytes)/(1<<20), float64(memory)/(1<<20), len(f.About.Bases), time.Since(begin))
	return snap
}

func restored(t *testing.T, d *Driver, snap sandbox.Snapshot) sandbox.Sandbox {
	t.Helper()
	begin := time.Now()
	b, err := d.Restore(bounded(t), snap)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("restored after %v", time.Since(begin))
	return b
}

// Snapshots of copies have what differs. They are whole without the template and without each other, however long the line is.
func TestSnapshotOfCopy(t *testing.T) {
	d := open(t)
	img := testenv.Image(t)
	tempTemplates(t)
	if _, err := d.CreateTemplate(bounded(t), sandbox.TemplateSpec{Name: "python", Spec: sandbox.Spec{Image: img, VCPUs: vcpus(t)}, WarmUp: []sandbox.Cmd{
		{Args: []string{"sh", "-c", "cat >/tmp/living.py"}, Stdin: strings.NewReader(living)},
		{Args: []string{"sh", "-c", "python3 /tmp/living.py >/dev/null 2>&1 </dev/null & until [ -s /tmp/living ]; do sleep 0.1; done"}},
	}}); err != nil {
		t.Fatal(err)
	}
	list, err := d.ForkTemplate(bounded(t), "python", 1)
	if err != nil {
		t.Fatal(err)
	}
	b := list[0]
	sh(t, b, "echo 0 >/root/number; head -c 4194304 /dev/urandom >/root/random; sha256sum /root/random >/root/sums")
	first := saveTimed(t, b, "a copy of a template")
	if n := len(basesIn(t, first.Ref)); n != 1 {
		t.Errorf("%d bases", n)
	}
	m := b.(*Sandbox).machine
	shared := m.bases
	m.bases = nil
	alone := saveTimed(t, b, "the same one, alone")
	m.bases = shared
	if first.Bytes*2 > alone.Bytes {
		t.Errorf("%d bytes with a base, %d without", first.Bytes, alone.Bytes)
	}
	if err := errors.Join(b.Close(), d.RemoveSnapshot(t.Context(), alone), d.RemoveTemplate(t.Context(), "python")); err != nil {
		t.Error(err)
	}

	// A line of snapshots, each of a copy of the one before.
	line := []sandbox.Snapshot{first}
	for i := 1; i <= snapshot.MaxBases+1; i++ {
		b := restored(t, d, line[len(line)-1])
		if got := sh(t, b, "cat /root/number; sha256sum -c --quiet /root/sums"); got != fmt.Sprint(i-1) {
			t.Errorf("copy %d: %q", i, got)
		}
		alive(t, b)
		sh(t, b, fmt.Sprintf("echo %d >/root/number; head -c 4194304 /dev/urandom >/root/random%d; sha256sum /root/random%d >>/root/sums", i, i, i))
		snap := saveTimed(t, b, fmt.Sprintf("copy %d in the line", i))
		if n := len(basesIn(t, snap.Ref)); n == 0 || n > snapshot.MaxBases {
			t.Errorf("copy %d: %d bases", i, n)
		}
		line = append(line, snap)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		// Without the one before.
		if err := d.RemoveSnapshot(t.Context(), line[i-1]); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(line[i-1].Ref); err != nil || len(left) != 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}

	// Somewhere else, as a whole.
	last := line[len(line)-1]
	moved := last
	moved.Ref = t.TempDir()
	if err := os.CopyFS(filepath.Join(moved.Ref, "x"), os.DirFS(last.Ref)); err != nil {
		t.Fatal(err)
	}
	moved.Ref = filepath.Join(moved.Ref, "x")
	if err := d.RemoveSnapshot(t.Context(), last); err != nil {
		t.Error(err)
	}
	b = restored(t, d, moved)
	sh(t, b, "sha256sum -c /root/sums")
	alive(t, b)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	// And without one of its bases it is refused.
	if err := os.Remove(filepath.Join(moved.Ref, basesIn(t, moved.Ref)[0])); err != nil {
		t.Fatal(err)
	}
	if b, err := d.Restore(bounded(t), moved); !errors.Is(err, sandbox.ErrInvalid) || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("without a base: %v, %v", b, err)
	}
}
