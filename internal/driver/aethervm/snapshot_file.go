package aethervm

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"

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
	stampName   = "machine.stamp"
)

// kept is what was written.
type kept struct {
	digest string
	bytes  int64 // on disk
}

// keep writes a machine to a directory. With rehearse it finds out first what a copy uses of the memory, with a copy.
// On error the caller removes what is there.
func (o original) keep(ctx context.Context, dir string, rehearse bool) (k kept, err error) {
	path := filepath.Join(dir, machineName)
	w, err := snapshot.Create(path)
	if err != nil {
		return k, err
	}
	defer func() { err = errors.Join(err, w.Abort()) }()
	state, err := o.branch.Save(ctx, w)
	if err != nil {
		return k, err
	}
	about, err := o.about()
	if err != nil {
		return k, err
	}
	var prefetch []snapshot.Run
	if rehearse {
		if prefetch, err = o.rehearse(ctx, w.File().Name(), about, state); err != nil {
			return k, fmt.Errorf("rehearse a copy: %w", err)
		}
	}
	digest, err := w.Finish(about, state, prefetch)
	if err != nil {
		return k, err
	}
	f, err := os.Open(path)
	if err != nil {
		return k, err
	}
	defer f.Close()
	s, err := stampOf(f, snapshot.Digest(digest))
	if err != nil {
		return k, err
	}
	return kept{digest: s.Digest, bytes: s.allocated}, s.write(dir)
}

// about is what the machine is and needs.
func (o original) about() (a snapshot.About, err error) {
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

// open opens a machine on disk, and makes sure that it is whole and fits before anything is made of it. The caller closes
// what it gets.
func (d *Driver) open(ctx context.Context, dir string, spec sandbox.Spec) (_ openOriginal, err error) {
	f, err := snapshot.Open(filepath.Join(dir, machineName))
	if err != nil {
		return openOriginal{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	here, err := hostCPU()
	if err != nil {
		return openOriginal{}, err
	}
	if err := f.Fits(vmm.StateVersion, agentproto.Version, here); err != nil {
		return openOriginal{}, err
	}
	state, err := vmm.SavedState(f, uint64(f.About.MemoryMiB)<<20)
	if err != nil {
		return openOriginal{}, err
	}
	if err := verifyOnce(ctx, dir, f); err != nil {
		return openOriginal{}, err
	}
	disk, err := agentsandbox.RootDisk(ctx, System, spec.Image)
	if err != nil {
		return openOriginal{}, err
	}
	o := openOriginal{original{driver: d, spec: spec, disk: disk}}
	if err = o.matches(f.About); err == nil {
		o.branch, err = cell.OpenSaved(saved(f.About, state, f.File()))
	}
	if err != nil {
		return openOriginal{}, errors.Join(err, disk.Close())
	}
	return o, nil
}

func saved(a snapshot.About, state []byte, memory *os.File) cell.Saved {
	return cell.Saved{
		VCPUs: int(a.VCPUs), MemoryMiB: int(a.MemoryMiB), Disks: len(a.Disks), Network: a.Network, State: state, Memory: memory,
	}
}

// matches holds what a file says to what the caller says that it is.
func (o original) matches(a snapshot.About) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{snapshot.ErrFormat}, args...)...)
	}
	switch net := o.spec.Network == sandbox.NetworkOutbound; {
	case int(a.VCPUs) != o.spec.VCPUs || a.VCPUs > vmm.MaxVCPUs:
		return bad("it has %d vCPUs, the spec %d", a.VCPUs, o.spec.VCPUs)
	case int(a.MemoryMiB) < o.spec.MemoryMiB || int(a.MemoryMiB) > vmm.MaxMemoryMiB:
		return bad("it has %d MiB of RAM, and the spec %d of memory", a.MemoryMiB, o.spec.MemoryMiB)
	case a.Network != net:
		return bad("network: %v, and in the spec: %v", a.Network, net)
	}
	disk, err := diskOf(o.disk)
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

// openOriginal is one that owns its branch and disk.
type openOriginal struct{ original }

func (o openOriginal) close() error { return errors.Join(o.branch.Close(), o.disk.Close()) }

// stamp says which file was found to be whole. The kernel changes the time of change with whatever is written to a file, and
// nobody can set it.
type stamp struct {
	Digest  string `json:"digest"`
	Device  uint64 `json:"device"`
	Inode   uint64 `json:"inode"`
	Size    int64  `json:"size"`
	Changed int64  `json:"changed"` // ns

	allocated int64
}

func stampOf(f *os.File, digest string) (stamp, error) {
	info, err := f.Stat()
	if err != nil {
		return stamp{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, fmt.Errorf("%s: no file of the kernel's", f.Name())
	}
	return stamp{Digest: digest, Device: st.Dev, Inode: st.Ino, Size: st.Size, Changed: st.Ctim.Nano(), allocated: st.Blocks * 512}, nil
}

func (s stamp) write(dir string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, stampName), b, 0o600)
}

// verifyOnce reads the memory of a file, and compares it with its checksums, unless it is the file that was found whole
// before, or that this program has written there, and nobody has written to it since.
func verifyOnce(ctx context.Context, dir string, f *snapshot.File) error {
	now, err := stampOf(f.File(), f.Digest())
	if err != nil {
		return err
	}
	now.allocated = 0
	var then stamp
	if b, err := os.ReadFile(filepath.Join(dir, stampName)); err == nil && json.Unmarshal(b, &then) == nil && then == now {
		return nil
	}
	if err := f.Verify(ctx); err != nil {
		return err
	}
	_ = now.write(dir) // else it is read again the next time
	return nil
}

// keptError makes an error of the contract of one about a machine on disk.
func keptError(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e := &sandbox.Error{Op: op, System: System, Detail: err.Error()}
	switch {
	case errors.Is(err, snapshot.ErrVersion), errors.Is(err, snapshot.ErrCPU):
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
