// Package runtimetest has a system in memory, for tests of package runtime and of what is built on it.
// Its time is that of package time, so testing/synctest makes it a fake one.
package runtimetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// Driver is a system in memory. Set its fields before it is used.
type Driver struct {
	Name string // a canonical name of package vms
	// Unavailable, if it is not empty, is why Probe finds nothing.
	Unavailable string
	// NoPause and NoSnapshot take abilities away; Forks adds that of copying a running sandbox.
	NoPause, NoSnapshot, Forks bool
	// Connects has its sandboxes connect to the sockets of interpreters, and Connected is how often they have.
	Connects  bool
	Connected atomic.Int64
	// Flows has it take sandbox.Spec.Outside, over which the command fetch goes.
	Flows bool
	// Files are in every sandbox that is made, beside /etc/os-release: names and contents.
	Files map[string]string
	// Kind of the snapshots; empty means full.
	Kind sandbox.SnapshotKind
	// SentBytes is what every sandbox says that it has sent to its network.
	SentBytes int64
	// CreateTime is how long it takes to make a sandbox.
	CreateTime time.Duration
	// OnResume may fail it, when the sandbox runs already.
	OnResume func() error
	// OnKill may fail the killing of a program, which otherwise succeeds unless the sandbox is paused.
	OnKill func() error
	// OnCreate and OnClose may fail it.
	OnCreate func(ctx context.Context, spec sandbox.Spec) error
	OnClose  func(id string) error
	// OnSnapshot may leave files in the directory of a snapshot, and fail it.
	OnSnapshot func(dir string) error
	// OnRemoveSnapshot may fail the removal of one, before anything is removed.
	OnRemoveSnapshot func(ctx context.Context) error
	// OnWrite, if not nil, stands for the writing of files.
	OnWrite func(r io.Reader) error

	mu        sync.Mutex
	open      map[string]*box
	snapshots map[string]*state
	made      int
	paused    int
	sweeps    int
	read      int
	swept     int
}

var ids atomic.Int64

// New returns a driver for a system of package vms.
func New(name string) *Driver {
	return &Driver{Name: name, open: map[string]*box{}, snapshots: map[string]*state{}}
}

// Images resolves every name but "missing" and "" to an image that is on no disk.
type Images struct {
	held atomic.Int64
	lost atomic.Pointer[string]
}

// Resolve is runtime.Images's.
func (i *Images) Resolve(_ context.Context, name string) (sandbox.Image, func(), error) {
	if lost := i.lost.Load(); name == "missing" || name == "" || lost != nil && (name == *lost || name == digestOf(*lost)) {
		return sandbox.Image{}, nil, &sandbox.Error{Op: "find image", Err: fs.ErrNotExist, Detail: "no image " + name, Remedy: "build it"}
	}
	i.held.Add(1)
	digest := name
	if !strings.HasPrefix(digest, "sha256:") {
		digest = digestOf(name)
	}
	return sandbox.Image{Digest: digest, Rootfs: "/nowhere/" + digest}, func() { i.held.Add(-1) }, nil
}

// Lose has one of the name resolve no more.
func (i *Images) Lose(name string) { i.lost.Store(&name) }

func digestOf(name string) string { return fmt.Sprintf("sha256:%064x", name) }

// Held is how many images are kept from being removed.
func (i *Images) Held() int64 { return i.held.Load() }

// Left counts the sandboxes and snapshots that are there.
func (d *Driver) Left() (sandboxes, snapshots int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.open), len(d.snapshots)
}

// Made counts the sandboxes that were ever made.
func (d *Driver) Made() int { return d.count(&d.made) }

// Pauses counts how often one was paused.
func (d *Driver) Pauses() int { return d.count(&d.paused) }

// Sweeps counts the calls of Sweep.
func (d *Driver) Sweeps() int { return d.count(&d.sweeps) }

// Read counts the bytes of files that were read.
func (d *Driver) Read() int { return d.count(&d.read) }

func (d *Driver) count(n *int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return *n
}

// Orphan is what Sweep will say that it has removed.
func (d *Driver) Orphan(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.swept = n
}

// System is sandbox.Driver's, as are the methods that follow.
func (d *Driver) System() string { return d.Name }

// Probe says what the fields do.
func (d *Driver) Probe(context.Context) sandbox.Info {
	return sandbox.Info{System: d.Name, Available: d.Unavailable == "", Reason: d.Unavailable, Version: "test", Accelerator: "memory"}
}

// Create makes a sandbox.
func (d *Driver) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	spec, err := spec.WithDefaults()
	if err != nil {
		return nil, err
	}
	if !d.Flows {
		if err := (sandbox.Spec{Outside: spec.Outside}).RefuseEgressRules("create", d.Name); err != nil {
			return nil, err
		}
	}
	if d.Unavailable != "" {
		return nil, &sandbox.Error{Op: "create", System: d.Name, Err: sandbox.ErrUnavailable, Detail: d.Unavailable}
	}
	if d.OnCreate != nil {
		if err := d.OnCreate(ctx, spec); err != nil {
			return nil, err
		}
	}
	if err := sleep(ctx, d.CreateTime); err != nil {
		return nil, err
	}
	outside := spec.Outside
	spec.Outside = nil
	files := map[string]file{"/etc/os-release": {data: "NAME=test\n", mode: 0o644}}
	for name, data := range d.Files {
		files[name] = file{data: data, mode: 0o644}
	}
	return d.start(&state{spec: spec, files: files,
		vars: map[string]string{}}, outside), nil
}

func (d *Driver) start(st *state, outside sandbox.Outside) sandbox.Sandbox {
	b := &box{d: d, id: fmt.Sprintf("box%d", ids.Add(1)), state: st, outside: outside, running: map[*running]bool{}}
	b.life, b.end = context.WithCancelCause(context.Background())
	d.mu.Lock()
	d.open[b.id] = b
	d.made++
	d.mu.Unlock()
	switch {
	case d.NoPause && d.NoSnapshot:
		return struct{ sandbox.Sandbox }{b}
	case d.NoSnapshot:
		return struct {
			sandbox.Sandbox
			sandbox.Pauser
		}{b, b}
	case d.NoPause:
		return struct {
			sandbox.Sandbox
			sandbox.Snapshotter
		}{b, b}
	case d.Forks:
		return forker{b}
	}
	return b
}

type forker struct{ *box }

// Fork is sandbox.Forker's.
func (f forker) Fork(ctx context.Context, n int) ([]sandbox.Sandbox, error) {
	if err := f.check("fork"); err != nil {
		return nil, err
	}
	var made []sandbox.Sandbox
	for range n {
		var outside sandbox.Outside
		if f.outside != nil {
			outside = f.outside.Copy()
		}
		made = append(made, f.d.start(f.copyState(sandbox.SnapshotFull), outside))
	}
	return made, ctx.Err()
}

// Restore is sandbox.Restorer's.
func (d *Driver) Restore(ctx context.Context, snap sandbox.Snapshot) (sandbox.Sandbox, error) {
	d.mu.Lock()
	saved := d.snapshots[snap.Ref]
	d.mu.Unlock()
	if saved == nil {
		return nil, &sandbox.Error{Op: "restore", System: d.Name, Err: fs.ErrNotExist, Detail: "no snapshot at " + snap.Ref}
	}
	if d.OnCreate != nil {
		if err := d.OnCreate(ctx, snap.Spec); err != nil {
			return nil, err
		}
	}
	if err := sleep(ctx, d.CreateTime); err != nil {
		return nil, err
	}
	return d.start(saved.clone(), nil), nil
}

// RemoveSnapshot is sandbox.Restorer's.
func (d *Driver) RemoveSnapshot(ctx context.Context, snap sandbox.Snapshot) error {
	if d.OnRemoveSnapshot != nil {
		if err := d.OnRemoveSnapshot(ctx); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.snapshots, snap.Ref)
	return nil
}

// Sweep says what Orphan was told.
func (d *Driver) Sweep(context.Context) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sweeps++
	n := d.swept
	d.swept = 0
	return n, nil
}

// Close closes what is open.
func (d *Driver) Close() error {
	d.mu.Lock()
	open := slices.Collect(maps.Values(d.open))
	d.mu.Unlock()
	for _, b := range open {
		_ = b.Close()
	}
	return nil
}

// Die ends every sandbox as if its system had.
func (d *Driver) Die() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range d.open {
		b.end(&sandbox.Error{Op: "exec", System: d.Name, Sandbox: b.id, Err: sandbox.ErrDead, Detail: "out of memory"})
	}
}

// state is what a snapshot holds.
type state struct {
	spec  sandbox.Spec
	files map[string]file
	vars  map[string]string // of the interpreter; nil if none was started
	began bool              // the interpreter
}

type file struct {
	data string
	mode fs.FileMode
	time time.Time
}

func (s *state) clone() *state {
	c := *s
	c.files, c.vars = maps.Clone(s.files), maps.Clone(s.vars)
	return &c
}

type box struct {
	d    *Driver
	id   string
	life context.Context
	end  context.CancelCauseFunc

	outside sandbox.Outside // nil for none

	mu      sync.Mutex
	state   *state
	paused  bool
	running map[*running]bool
}

// running is a program that can be sent a signal.
type running struct {
	env    []string
	signal chan int
}

func (b *box) ID() string { return b.id }

func (b *box) check(op string) error {
	if b.life.Err() != nil {
		return context.Cause(b.life)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.paused {
		return &sandbox.Error{Op: op, System: b.d.Name, Sandbox: b.id, Err: sandbox.ErrUnsupported, Detail: "it is paused"}
	}
	return nil
}

func (b *box) copyState(kind sandbox.SnapshotKind) *state {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.state.clone()
	if kind == sandbox.SnapshotFiles {
		c.vars, c.began = map[string]string{}, false
	}
	return c
}

func (b *box) Pause(context.Context) error {
	if b.life.Err() != nil {
		return context.Cause(b.life)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paused = true
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	b.d.paused++
	return nil
}

func (b *box) Resume(context.Context) error {
	if b.life.Err() != nil {
		return context.Cause(b.life)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paused = false
	if b.d.OnResume != nil {
		return b.d.OnResume()
	}
	return nil
}

func (b *box) Snapshot(_ context.Context, dir string) (sandbox.Snapshot, error) {
	if err := b.check("snapshot"); err != nil {
		return sandbox.Snapshot{}, err
	}
	kind := b.d.Kind
	if kind == "" {
		kind = sandbox.SnapshotFull
	}
	if b.d.OnSnapshot != nil {
		if err := b.d.OnSnapshot(dir); err != nil {
			return sandbox.Snapshot{}, err
		}
	}
	saved := b.copyState(kind)
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	b.d.snapshots[dir] = saved
	return sandbox.Snapshot{System: b.d.Name, Kind: kind, Ref: dir, Bytes: 1 << 20, Spec: saved.spec}, nil
}

func (b *box) Stats(context.Context) (sandbox.Stats, error) {
	return sandbox.Stats{MemoryBytes: 1 << 20, CPUNanos: int64(time.Second), Processes: 1, SentBytes: b.d.SentBytes}, b.check("stats")
}

func (b *box) Close() error {
	b.end(sandbox.Closed("exec", b.d.Name, b.id))
	b.d.mu.Lock()
	delete(b.d.open, b.id)
	b.d.mu.Unlock()
	if b.outside != nil {
		if err := b.outside.Close(); err != nil {
			return err
		}
	}
	if b.d.OnClose != nil {
		return b.d.OnClose(b.id)
	}
	return nil
}

func (b *box) ReadFile(_ context.Context, name string, w io.Writer) error {
	f, err := b.find("read", name)
	if err != nil {
		return err
	}
	if f.mode.IsDir() {
		return &sandbox.Error{Op: "read", System: b.d.Name, Err: sandbox.ErrInvalid, Detail: name + " is a directory"}
	}
	return b.give(w, f.data)
}

// ReadRange is sandbox.RangeReader's.
func (b *box) ReadRange(_ context.Context, name string, offset, size int64, w io.Writer) error {
	if err := sandbox.CheckRange(offset, size); err != nil {
		return err
	}
	f, err := b.find("read", name)
	if err != nil {
		return err
	}
	from := min(offset, int64(len(f.data)))
	return b.give(w, f.data[from:from+min(size, int64(len(f.data))-from)])
}

func (b *box) give(w io.Writer, data string) error {
	b.d.mu.Lock()
	b.d.read += len(data)
	b.d.mu.Unlock()
	_, err := io.WriteString(w, data)
	return err
}

func (b *box) WriteFile(_ context.Context, name string, r io.Reader, perm fs.FileMode) error {
	if _, err := b.find("write", path.Dir(name)); err != nil {
		return err
	}
	if b.d.OnWrite != nil {
		return b.d.OnWrite(r)
	}
	var data bytes.Buffer
	if _, err := data.ReadFrom(r); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.files[path.Clean(name)] = file{data.String(), perm, time.Now()}
	return nil
}

// find finds a file. Directories are those that files are in, and those that were made.
func (b *box) find(op, name string) (file, error) {
	if err := sandbox.CheckPath(name); err != nil {
		return file{}, err
	}
	if err := b.check(op); err != nil {
		return file{}, err
	}
	name = path.Clean(name)
	b.mu.Lock()
	defer b.mu.Unlock()
	if f, ok := b.state.files[name]; ok {
		return f, nil
	}
	dir := file{mode: fs.ModeDir | 0o755}
	if name == "/" || name == "/tmp" {
		return dir, nil
	}
	for other := range b.state.files {
		if strings.HasPrefix(other, name+"/") {
			return dir, nil
		}
	}
	return file{}, &sandbox.Error{Op: op, System: b.d.Name, Sandbox: b.id, Err: fs.ErrNotExist, Detail: name, Remedy: "list the directory above it"}
}

func (b *box) ReadDir(_ context.Context, name string) ([]sandbox.FileInfo, error) {
	if _, err := b.find("list", name); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	prefix := strings.TrimSuffix(path.Clean(name), "/") + "/"
	found := map[string]sandbox.FileInfo{}
	for other, f := range b.state.files {
		rest, ok := strings.CutPrefix(other, prefix)
		if !ok {
			continue
		}
		first, _, deeper := strings.Cut(rest, "/")
		info := sandbox.FileInfo{Name: first, Size: int64(len(f.data)), Mode: f.mode, ModTime: f.time}
		if deeper {
			info.Mode, info.Size = fs.ModeDir|0o755, 0
		}
		found[first] = info
	}
	return slices.SortedFunc(maps.Values(found), func(a, b sandbox.FileInfo) int { return strings.Compare(a.Name, b.Name) }), nil
}

func (b *box) Stat(_ context.Context, name string) (sandbox.FileInfo, error) {
	f, err := b.find("stat", name)
	return sandbox.FileInfo{Name: path.Base(name), Size: int64(len(f.data)), Mode: f.mode, ModTime: f.time}, err
}

func (b *box) Remove(_ context.Context, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.state.files, path.Clean(name))
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
