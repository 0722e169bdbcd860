package aethervm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/agentsandbox"
	"github.com/aethervm/aether/internal/cell"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/vmm"
)

// Files of a machine on disk.
const (
	machineName = "machine"
	stampSuffix = ".stamp"
	stampName   = machineName + stampSuffix
)

// kept is what was written.
type kept struct {
	digest string
	bytes  int64 // on disk
}

// keep writes a machine to a directory. With rehearse it finds out first what a copy uses of the memory, with a copy.
// tell, which may be nil, is told how far it is. On error the caller removes what is there.
func (o original) keep(ctx context.Context, dir string, rehearse bool, tell teller) (k kept, err error) {
	path := filepath.Join(dir, machineName)
	w, err := snapshot.Create(path)
	if err != nil {
		return k, err
	}
	defer func() { err = errors.Join(err, w.Abort()) }()
	tell.stage(sandbox.TemplateWrite)
	w.Progress = tell.bytes(sandbox.TemplateWrite)
	about, err := o.about(ctx)
	if err != nil {
		return k, err
	}
	leansOn, sums, err := o.linkBases(dir)
	if err != nil {
		return k, err
	}
	about.Bases = sums
	state, err := o.branch.Save(ctx, w, leansOn...)
	if err != nil {
		return k, err
	}
	var prefetch []snapshot.Run
	if rehearse {
		tell.stage(sandbox.TemplateTrial)
		if prefetch, err = o.rehearse(ctx, w.File().Name(), about, state); err != nil {
			return k, fmt.Errorf("rehearse a copy: %w", err)
		}
	}
	tell.stage(sandbox.TemplateFinish)
	digest, err := w.Finish(about, state, prefetch)
	if err != nil {
		return k, err
	}
	f, err := snapshot.OpenRegular(path)
	if err != nil {
		return k, err
	}
	defer f.Close()
	s, err := stampOf(f, snapshot.Digest(digest))
	if err != nil {
		return k, err
	}
	return kept{digest: s.Digest, bytes: s.allocated}, s.write(dir, stampName)
}

// about is what the machine is and needs.
func (o original) about(ctx context.Context) (a snapshot.About, err error) {
	a = snapshot.About{
		Program: program(), StateVersion: vmm.StateVersion, AgentVersion: agentproto.Version,
		VCPUs: uint32(o.spec.VCPUs), MemoryMiB: uint32(o.branch.MemoryMiB()), Network: o.spec.Network == sandbox.NetworkOutbound,
	}
	disk, err := diskOf(o.disk)
	if err != nil {
		return a, err
	}
	a.Disks = []snapshot.Disk{disk}
	a.CPU, err = hostCPU()
	if a.CPU.TSCKHz = o.tscKHz; err == nil && o.tscKHz == 0 {
		var tsc kvm.TSC
		tsc, err = o.driver.tsc.Get(ctx, hostTSC)
		a.CPU.TSCKHz = tsc.KHz
	}
	return a, err
}

// program is the version of this program, for people.
func program() string {
	if b, ok := debug.ReadBuildInfo(); ok {
		return b.Main.Version
	}
	return ""
}

// diskHead is how much of a disk tells it from others: its file system's label is in it, which has a random ID.
const diskHead = 64 << 10

func diskOf(f *os.File) (snapshot.Disk, error) {
	info, err := f.Stat()
	if err != nil {
		return snapshot.Disk{}, err
	}
	head, err := io.ReadAll(io.NewSectionReader(f, 0, diskHead))
	if err != nil {
		return snapshot.Disk{}, fmt.Errorf("read the disk: %w", err)
	}
	return snapshot.Disk{Size: uint64(info.Size()), Sum: sha256.Sum256(head)}, nil
}

// hostCPU is the processor that guests meet here.
func hostCPU() (snapshot.CPU, error) {
	system, err := kvm.Open()
	if err != nil {
		return snapshot.CPU{}, err
	}
	leaves, err := system.SupportedCPUID()
	msrs, msrErr := system.MSRIndices()
	if err := errors.Join(err, msrErr, system.Close()); err != nil {
		return snapshot.CPU{}, err
	}
	cpu := snapshot.CPU{MSRs: msrs}
	for _, l := range leaves {
		cpu.Leaves = append(cpu.Leaves, snapshot.Leaf{Function: l.Function, Index: l.Index, EAX: l.EAX, EBX: l.EBX, ECX: l.ECX, EDX: l.EDX})
	}
	return cpu, nil
}

// hostTSC is the time-stamp counter of this host.
func hostTSC(context.Context) (t kvm.TSC, err error) {
	system, err := kvm.Open()
	if err != nil {
		return t, err
	}
	t, err = system.TSC()
	return t, errors.Join(err, system.Close())
}

// open makes an original of a machine on disk, once it has made sure that it is whole and fits. It closes the file, which is
// in dir; the caller closes what it gets. What takes long, to read the memory, comes last.
func (d *Driver) open(ctx context.Context, dir string, f *snapshot.File, spec sandbox.Spec) (_ openOriginal, err error) {
	defer func() { err = errors.Join(err, f.Close()) }()
	here, err := hostCPU()
	if err != nil {
		return openOriginal{}, err
	}
	if err := f.Fits(vmm.StateVersion, agentproto.Version, here); err != nil {
		return openOriginal{}, err
	}
	tsc, err := d.tsc.Get(ctx, hostTSC)
	if err != nil {
		return openOriginal{}, err
	}
	if err := tsc.Runs(f.About.CPU.TSCKHz); err != nil {
		return openOriginal{}, err
	}
	if err := matches(f.About, spec); err != nil {
		return openOriginal{}, err
	}
	leansOn, err := openBases(dir, f)
	if err != nil {
		return openOriginal{}, err
	}
	defer func() { err = errors.Join(err, closeFiles(leansOn)) }()
	state, err := vmm.SavedState(f, uint64(f.About.MemoryMiB)<<20, leansOn...)
	if err != nil {
		return openOriginal{}, err
	}
	disk, err := agentsandbox.RootDisk(ctx, System, spec.Image)
	if err != nil {
		return openOriginal{}, err
	}
	o := openOriginal{original{driver: d, spec: spec, disk: disk, tscKHz: f.About.CPU.TSCKHz}}
	if err = matchesDisk(f.About, disk); err == nil {
		err = verifyOnce(ctx, dir, stampName, f)
	}
	for _, b := range leansOn {
		if err == nil {
			err = verifyOnce(ctx, dir, stampNameOf(baseName(b.Sum())), b)
		}
	}
	if err == nil {
		o.bases, err = newBases(append([]*snapshot.File{f}, leansOn...)...)
	}
	if err == nil {
		s := saved(f.About, state, f.File())
		s.Bases = filesOf(o.bases.all())[1:]
		if o.branch, err = cell.OpenSaved(s); err != nil {
			err = errors.Join(err, o.bases.release())
		}
	}
	if err != nil {
		return openOriginal{}, errors.Join(err, disk.Close())
	}
	return o, nil
}

// saved is a machine on disk that leans on no other.
func saved(a snapshot.About, state []byte, memory *os.File) cell.Saved {
	return cell.Saved{
		VCPUs: int(a.VCPUs), MemoryMiB: int(a.MemoryMiB), Disks: len(a.Disks), Network: a.Network, State: state, Memory: memory,
	}
}

// matches holds what a file says to what the caller says that it is. The memory is that of a sandbox of the spec, no more: it
// is what the caller has counted.
func matches(a snapshot.About, spec sandbox.Spec) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{snapshot.ErrFormat}, args...)...)
	}
	switch net := spec.Network == sandbox.NetworkOutbound; {
	case int(a.VCPUs) != spec.VCPUs || a.VCPUs > vmm.MaxVCPUs:
		return bad("it has %d vCPUs, the spec %d", a.VCPUs, spec.VCPUs)
	case int(a.MemoryMiB) != ramMiB(spec.MemoryMiB) || int(a.MemoryMiB) > vmm.MaxMemoryMiB:
		return bad("it has %d MiB of RAM, and a sandbox of the spec, with %d of memory, %d", a.MemoryMiB, spec.MemoryMiB, ramMiB(spec.MemoryMiB))
	case a.Network != net:
		return bad("network: %v, and in the spec: %v", a.Network, net)
	}
	return nil
}

// matchesDisk tells whether the disk of the image that there is now is the one that the machine has used.
func matchesDisk(a snapshot.About, f *os.File) error {
	disk, err := diskOf(f)
	if err != nil {
		return err
	}
	if len(a.Disks) != 1 || a.Disks[0] != disk {
		return errOtherDisk
	}
	return nil
}

// errOtherDisk: the image is there, but its disk was made anew.
var errOtherDisk = errors.New("the disk of its image is not the one that it has used")

// openOriginal is one that owns its branch, its disk and a share of its bases.
type openOriginal struct{ original }

func (o openOriginal) close() error {
	return errors.Join(o.branch.Close(), o.disk.Close(), o.bases.release())
}

// keptError makes an error of the contract of one about a machine on disk.
func keptError(ctx context.Context, op string, err error) error {
	switch end := ctx.Err(); {
	case end == nil:
	case errors.Is(err, end): // with what could not be tidied up
		return err
	default:
		return errors.Join(end, err)
	}
	e := &sandbox.Error{Op: op, System: System, Detail: err.Error()}
	switch {
	case errors.Is(err, snapshot.ErrVersion), errors.Is(err, snapshot.ErrCPU), errors.Is(err, kvm.ErrTSCRate):
		e.Err, e.Remedy = sandbox.ErrUnsupported, "take it again, with this program on this host"
	case errors.Is(err, errOtherDisk):
		e.Err, e.Remedy = sandbox.ErrUnsupported, "take it again: the image was built anew since"
	case errors.Is(err, snapshot.ErrFormat), errors.Is(err, snapshot.ErrChecksum), errors.Is(err, snapshot.ErrTruncated), errors.Is(err, vmm.ErrSnapshot):
		e.Err, e.Remedy = sandbox.ErrInvalid, "the file is damaged, or of something else: take it again"
	default:
		return agentsandbox.Typed(op, System, "", err)
	}
	return e
}
