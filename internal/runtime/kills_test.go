package runtime

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/internal/runtime/runtimetest"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// diskDriver is a system whose sandboxes and snapshots leave something on the disk: a directory of a lease each, and
// two files that belong together.
type diskDriver struct {
	*runtimetest.Driver
	root  string
	lease *lease.Lease
}

func newDiskDriver(root string) (*diskDriver, error) {
	l, err := lease.Acquire(root)
	return &diskDriver{Driver: runtimetest.New("gvisor"), root: root, lease: l}, err
}

type diskBox struct {
	sandbox.Sandbox
	d    *diskDriver
	spec sandbox.Spec
	dir  string
}

func (d *diskDriver) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	dir := filepath.Join(d.lease.Dir, lease.NewID())
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	b, err := d.Driver.Create(ctx, spec)
	if err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	return &diskBox{b, d, spec, dir}, nil
}

func (b *diskBox) Close() error { return errors.Join(b.Sandbox.Close(), os.RemoveAll(b.dir)) }

func (b *diskBox) Fork(ctx context.Context, n int) (made []sandbox.Sandbox, err error) {
	for range n {
		c, err := b.d.Create(ctx, b.spec)
		if err != nil {
			return nil, errors.Join(err, closeAll(made))
		}
		made = append(made, c)
	}
	return made, nil
}

var halves = []string{"memory", "state"}

func (b *diskBox) Snapshot(_ context.Context, dir string) (sandbox.Snapshot, error) {
	content := bytes.Repeat([]byte(lease.NewID()), 1000)
	for _, name := range halves {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return sandbox.Snapshot{}, err
		}
	}
	return sandbox.Snapshot{System: b.d.Name, Kind: sandbox.SnapshotFull, Ref: dir, Bytes: 1, Spec: b.spec}, nil
}

func (d *diskDriver) Restore(ctx context.Context, snap sandbox.Snapshot) (sandbox.Sandbox, error) {
	var read [2][]byte
	for i, name := range halves {
		var err error
		if read[i], err = os.ReadFile(filepath.Join(snap.Ref, name)); err != nil {
			return nil, err
		}
	}
	if len(read[0]) != 16000 || !bytes.Equal(read[0], read[1]) {
		return nil, errors.New("a snapshot in parts")
	}
	return d.Create(ctx, snap.Spec)
}

func (d *diskDriver) RemoveSnapshot(_ context.Context, snap sandbox.Snapshot) error {
	for _, name := range halves {
		if err := os.Remove(filepath.Join(snap.Ref, name)); err != nil {
			return err
		}
		time.Sleep(time.Millisecond) // files of some size take longer
	}
	return nil
}

// template is a file of a template.
func (d *diskDriver) template(name string) string {
	return filepath.Join(d.root, "..", "templates", name)
}

func (d *diskDriver) CreateTemplate(_ context.Context, spec sandbox.TemplateSpec) (sandbox.Template, error) {
	t := sandbox.Template{System: d.Name, Name: spec.Name, Digest: "sha256:" + lease.NewID(), Created: time.Now(), Spec: spec.Spec}
	raw, err := json.Marshal(t)
	if err != nil {
		return t, err
	}
	making := d.template(".new-" + lease.NewID())
	return t, errors.Join(os.MkdirAll(filepath.Dir(making), 0o700), os.WriteFile(making, raw, 0o600), os.Rename(making, d.template(spec.Name)))
}

func (d *diskDriver) Templates(context.Context) (list []sandbox.Template, err error) {
	names, err := filepath.Glob(d.template("[^.]*"))
	for _, name := range names {
		raw, readErr := os.ReadFile(name)
		if errors.Is(readErr, os.ErrNotExist) {
			continue
		}
		var t sandbox.Template
		err = errors.Join(err, readErr, json.Unmarshal(raw, &t))
		list = append(list, t)
	}
	return list, err
}

func (d *diskDriver) ForkTemplate(ctx context.Context, name string, _ int) ([]sandbox.Sandbox, error) {
	raw, err := os.ReadFile(d.template(name))
	if err != nil {
		return nil, err
	}
	var t sandbox.Template
	if err := json.Unmarshal(raw, &t); err != nil {
		return nil, err
	}
	b, err := d.Create(ctx, t.Spec)
	return []sandbox.Sandbox{b}, err
}

func (d *diskDriver) RemoveTemplate(_ context.Context, name string) error {
	return os.Remove(d.template(name))
}

func (d *diskDriver) Sweep(ctx context.Context) (int, error) {
	return lease.Sweep(ctx, d.root, func(_ context.Context, l *lease.Lease) (int, error) {
		entries, err := os.ReadDir(l.Dir)
		return max(0, len(entries)-1), errors.Join(err, l.Release())
	})
}

func (d *diskDriver) Close() error { return errors.Join(d.Driver.Close(), d.lease.Release()) }

func openOnDisk(ctx context.Context, dir string) (*Runtime, *diskDriver, error) {
	d, err := newDiskDriver(filepath.Join(dir, "run"))
	if err != nil {
		return nil, nil, err
	}
	r, err := Open(ctx, Config{StateDir: filepath.Join(dir, "state"), Drivers: []sandbox.Driver{d}, Images: &runtimetest.Images{}, DefaultImage: "base"})
	return r, d, err
}

const killedEnv = "AETHER_TEST_KILLED_RUNTIME"

// A runtime is killed at random moments of creates, forks, snapshots and their removal. The next one on the same directory
// has every snapshot that was acknowledged, each whole, and nothing else: no half of one, no sandbox, no file.
// AETHER_TEST_KILLS is how often.
func TestKilledAnyTime(t *testing.T) {
	if dir := os.Getenv(killedEnv); dir != "" {
		_ = os.RemoveAll(os.Getenv("AETHER_RUN")) // TestMain has made one, and will not come to remove it
		fmt.Println("fails", churn(t, dir))
		os.Exit(1)
	}
	rounds := testenv.Number(t, "AETHER_TEST_KILLS", 8)
	dir := t.TempDir()
	kept := map[string]bool{} // acknowledged
	maybe := map[string]bool{}
	for round := range rounds {
		later := rand.N(120 * time.Millisecond)
		killChurn(t, dir, later, kept, maybe)
		lookAfterKill(t, dir, fmt.Sprintf("round %d, killed after %v", round, later), kept, maybe)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d kills, %d snapshots are left", rounds, len(kept))
}

// killChurn runs churn and kills it. It keeps the books of the snapshots: kept are there for certain, maybe perhaps.
func killChurn(t *testing.T, dir string, later time.Duration, kept, maybe map[string]bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledAnyTime$")
	cmd.Env = append(os.Environ(), killedEnv+"="+dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var strike *time.Timer
	for lines := bufio.NewScanner(out); lines.Scan(); {
		what, id, _ := strings.Cut(lines.Text(), " ")
		switch what {
		case "ready":
			strike = time.AfterFunc(later, func() { _ = cmd.Process.Kill() })
			defer strike.Stop()
		case "kept":
			kept[id] = true
		case "removing":
			delete(kept, id)
			maybe[id] = true
		case "removed":
			delete(maybe, id)
		default:
			t.Errorf("it says %q", lines.Text())
		}
	}
	_ = cmd.Wait() // it was killed
	if strike == nil {
		t.Fatal("it was never ready")
	}
}

// lookAfterKill opens what was left, holds it to the books, and uses it.
func lookAfterKill(t *testing.T, dir, when string, kept, maybe map[string]bool) {
	t.Helper()
	r, d, err := openOnDisk(t.Context(), dir)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	for _, note := range r.Recovered().Notes {
		if !strings.Contains(note, "not written whole") { // the last line of the audit log
			t.Errorf("%s: %s", when, note)
		}
	}
	defer func() {
		if err := errors.Join(r.Close(), d.Close()); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if left, err := os.ReadDir(filepath.Join(dir, "run")); err != nil || len(left) != 0 {
			t.Errorf("%s: of sandboxes are left: %v, %v", when, left, err)
		}
		if _, err := VerifyAudit(filepath.Join(dir, "state")); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}()
	s := (&world{Runtime: r}).session(t, SessionSpec{})
	list, err := s.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, snap := range list {
		there[snap.ID] = true
		info, err := s.Restore(t.Context(), RestoreRequest{Snapshot: snap.ID})
		if err == nil {
			err = s.Kill(t.Context(), info.ID)
		}
		if err != nil {
			t.Errorf("%s: snapshot %s, whose removal has begun: %v: %v", when, snap.ID, maybe[snap.ID], err)
		}
	}
	for id := range kept {
		if IsSnapshotID(id) && !there[id] {
			t.Errorf("%s: snapshot %s was acknowledged, and is gone", when, id)
		}
	}
	for id := range there { // one whose acknowledgement nobody has read counts from now on
		kept[id] = true
	}
	for i, snap := range list {
		if i < 5 {
			continue
		}
		if err := s.RemoveSnapshot(t.Context(), snap.ID); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		delete(kept, snap.ID)
		delete(there, snap.ID)
	}
	defer clear(maybe)
	entries, err := os.ReadDir(filepath.Join(dir, "state", snapshotsName))
	if err != nil && !errors.Is(err, os.ErrNotExist) { // it was killed before the first snapshot
		t.Errorf("%s: %v", when, err)
	}
	for _, e := range entries {
		if !there[e.Name()] {
			t.Errorf("%s: snapshots/%s is left", when, e.Name())
		}
	}
	lookAtTemplates(t, s, d, when, kept, maybe)
	id := s.mustCreate(t, SandboxSpec{})
	if err := s.Kill(t.Context(), id); err != nil {
		t.Errorf("%s: %v", when, err)
	}
}

// lookAtTemplates holds the templates that were left to the books, and uses them.
func lookAtTemplates(t *testing.T, s *Session, d *diskDriver, when string, kept, maybe map[string]bool) {
	t.Helper()
	list, err := s.Templates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, tm := range list {
		there[tm.ID] = true
		info, err := s.Create(t.Context(), CreateRequest{SandboxSpec: SandboxSpec{Template: tm.Name}})
		if err == nil {
			err = s.Kill(t.Context(), info.ID)
		}
		if err != nil {
			t.Errorf("%s: template %s: %v", when, tm.ID, err)
		}
	}
	for id := range kept {
		if IsTemplateID(id) && !there[id] && !maybe[id] {
			t.Errorf("%s: template %s was acknowledged, and is gone", when, id)
		}
	}
	if onDisk, err := d.Templates(t.Context()); err != nil || len(onDisk) != len(list) {
		t.Errorf("%s: %d templates are on the disk, and %d in the list (%v)", when, len(onDisk), len(list), err)
	}
	for id := range kept { // each round begins without
		if IsTemplateID(id) {
			delete(kept, id)
		}
	}
	for _, tm := range list {
		if err := s.RemoveTemplate(t.Context(), tm.ID); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
}

// churn does all that leaves something until it is killed.
func churn(t *testing.T, dir string) error {
	ctx := context.Background()
	r, _, err := openOnDisk(ctx, dir)
	if err != nil {
		return err
	}
	s := (&world{Runtime: r}).session(t, SessionSpec{})
	fmt.Println("ready")
	var tasks sync.WaitGroup
	fails := make(chan error, 3)
	for task := range 3 {
		tasks.Go(func() {
			for n := 0; ; n++ {
				if err := churnOnce(ctx, s, fmt.Sprintf("key-%d-%d", task, n)); err != nil {
					fails <- err
					return
				}
			}
		})
	}
	return <-fails
}

func churnOnce(ctx context.Context, s *Session, key string) error {
	box, err := s.Create(ctx, CreateRequest{Key: key})
	if err != nil {
		return err
	}
	forked, err := s.Fork(ctx, ForkRequest{Sandbox: box.ID, Count: 2})
	if err != nil {
		return err
	}
	var ids []string
	for range 2 {
		snap, err := s.Snapshot(ctx, SnapshotRequest{Sandbox: box.ID})
		if err != nil {
			return err
		}
		fmt.Println("kept", snap.ID)
		ids = append(ids, snap.ID)
	}
	restored, err := s.Restore(ctx, RestoreRequest{Snapshot: ids[0]})
	if err != nil {
		return err
	}
	if _, err := s.Rollback(ctx, RollbackRequest{Sandbox: box.ID, Snapshot: ids[1]}); err != nil {
		return err
	}
	for _, id := range ids[:1+rand.N(2)] {
		fmt.Println("removing", id)
		if err := s.RemoveSnapshot(ctx, id); err != nil {
			return err
		}
		fmt.Println("removed", id)
	}
	if err := churnTemplate(ctx, s, key); err != nil {
		return err
	}
	for _, id := range []string{box.ID, restored.ID, forked.Children[0].Sandbox.ID, forked.Children[1].Sandbox.ID} {
		if err := s.Kill(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// churnTemplate makes a template, another one in its place, and removes that now and then.
func churnTemplate(ctx context.Context, s *Session, key string) error {
	name := key[:len("key-0")] // of the task
	old, err := s.CreateTemplate(ctx, TemplateRequest{Name: name})
	if err != nil {
		return err
	}
	fmt.Println("kept", old.ID)
	fmt.Println("removing", old.ID)
	made, err := s.CreateTemplate(ctx, TemplateRequest{Name: name})
	if err != nil {
		return err
	}
	fmt.Println("removed", old.ID)
	fmt.Println("kept", made.ID)
	info, err := s.Create(ctx, CreateRequest{SandboxSpec: SandboxSpec{Template: name}})
	if err != nil {
		return err
	}
	fmt.Println("removing", made.ID)
	if rand.N(2) == 0 {
		if err := s.RemoveTemplate(ctx, name); err != nil {
			return err
		}
		fmt.Println("removed", made.ID)
	}
	return s.Kill(ctx, info.ID)
}
