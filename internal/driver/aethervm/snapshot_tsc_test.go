package aethervm

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/vmm"
)

// A machine whose time-stamp counter has run at a rate that this host cannot give it is refused before there is a machine.
func TestSnapshotTSCRate(t *testing.T) {
	tsc, err := hostTSC(t.Context())
	if err != nil {
		t.Skip(err)
	}
	if tsc.KHz == 0 {
		t.Skip("KVM does not say how fast the counter is here")
	}
	d, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	about, err := (original{driver: d, spec: sandbox.Spec{VCPUs: 1}, branch: &cell.Branch{}, disk: smallDisk(t)}).about(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if about.CPU.TSCKHz != tsc.KHz {
		t.Errorf("a rate of %d kHz is kept; the host's is %d", about.CPU.TSCKHz, tsc.KHz)
	}
	kept, err := (original{driver: d, spec: sandbox.Spec{VCPUs: 1}, branch: &cell.Branch{}, disk: smallDisk(t), tscKHz: 7}).about(t.Context())
	if err != nil || kept.CPU.TSCKHz != 7 {
		t.Errorf("of a guest that has another one: %d kHz, %v", kept.CPU.TSCKHz, err)
	}
	for _, c := range []struct {
		khz uint32
		bad bool
	}{{tsc.KHz, false}, {0, false}, {tsc.KHz / 2, !tsc.Scales}, {tsc.KHz + tsc.KHz/10, !tsc.Scales}, {1<<32 - 1, !tsc.Scales}} {
		forged := about
		forged.CPU.TSCKHz, forged.StateVersion, forged.AgentVersion = c.khz, vmm.StateVersion, agentproto.Version
		forged.VCPUs, forged.MemoryMiB = 3, 1 // so that what comes next refuses it
		dir := t.TempDir()
		w, err := snapshot.Create(filepath.Join(dir, machineName))
		if err != nil {
			t.Fatal(err)
		}
		page := bytes.Repeat([]byte("x"), snapshot.PageSize)
		if _, err := w.WriteMemory(t.Context(), []snapshot.Extent{{Size: snapshot.PageSize, Source: bytes.NewReader(page)}}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Finish(forged, []byte("state"), nil); err != nil {
			t.Fatal(err)
		}
		f, err := snapshot.Open(filepath.Join(dir, machineName))
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.open(t.Context(), dir, f, sandbox.Spec{VCPUs: 1, MemoryMiB: 64})
		if got := errors.Is(err, kvm.ErrTSCRate); got != c.bad || !got && !errors.Is(err, snapshot.ErrFormat) {
			t.Errorf("at %d kHz: %v", c.khz, err)
		}
		if e, ok := errors.AsType[*sandbox.Error](keptError(t.Context(), "restore", err)); c.bad && (!ok || !errors.Is(e, sandbox.ErrUnsupported) || e.Remedy == "") {
			t.Errorf("at %d kHz: %v", c.khz, e)
		}
	}
}

// smallDisk is a file for a disk.
func smallDisk(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.WriteString("disk"); err != nil {
		t.Fatal(err)
	}
	return f
}
