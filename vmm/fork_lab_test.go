package vmm_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/vmm"
)

func clientOf(vm *vmm.VM) *agentproto.Client {
	return &agentproto.Client{Dial: func(ctx context.Context) (net.Conn, error) { return vm.Dial(ctx, agentproto.Port) }}
}

// branch takes a snapshot of a guest whose programs stand still.
func branch(ctx context.Context, t testing.TB, vm *vmm.VM, client *agentproto.Client) *vmm.Snapshot {
	t.Helper()
	if err := client.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	s, err := vm.Branch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := client.Thaw(ctx, agentproto.Config{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// forkGuest makes a guest of a snapshot, running, and its programs too.
func forkGuest(ctx context.Context, t testing.TB, s *vmm.Snapshot, cfg vmm.ForkConfig, name string) (*vmm.VM, *agentproto.Client) {
	t.Helper()
	vm, err := vmm.Fork(s, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console of %s:\n%s", name, vm.Console())
		}
		if err := vm.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	client := clientOf(vm)
	if err := client.Thaw(ctx, agentproto.Config{Hostname: name, Now: time.Now(), Entropy: make([]byte, 32)}); err != nil {
		t.Fatal(err)
	}
	return vm, client
}

// A guest and three copies: all answer, and each goes its own way from the same instant.
func TestFork(t *testing.T) {
	for _, vcpus := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d vCPUs", vcpus), func(t *testing.T) { testFork(t, vcpus) })
	}
}

func testFork(t *testing.T, vcpus int) {
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	_, disk := guestFiles(t)
	parent, client := bootGuest(t, func(c *vmm.Config) { c.VCPUs = vcpus })
	// A program that counts, in its memory, and tells on request.
	const counter = `
import os, time
n = 0
while True:
    n += 1
    open('/tmp/n.new', 'w').write(str(n)); os.rename('/tmp/n.new', '/tmp/n')
    time.sleep(0.01)`
	if err := client.WriteFile(ctx, "/tmp/count.py", strings.NewReader(counter), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := run(ctx, client, nil, "sh", "-c", "python3 /tmp/count.py >/dev/null 2>&1 </dev/null & echo before >/tmp/word"); err != nil {
		t.Fatal(err)
	}
	const wait = "until [ -s /tmp/n ]; do sleep 0.1; done; cat /tmp/n"
	if _, err := run(ctx, client, nil, "sh", "-c", wait); err != nil {
		t.Fatal(err)
	}
	open, err := parent.Dial(ctx, agentproto.Port)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	start := time.Now()
	snapshot := branch(ctx, t, parent, client)
	t.Logf("branch with freeze and thaw: %v", time.Since(start))
	state, err := snapshot.Encode()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := snapshot.Layers()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("state of %d bytes, %d layers", len(state), len(layers))
	// As another process would get it.
	copied, err := vmm.OpenSnapshot(state, duplicates(t, layers))
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	if _, err := run(ctx, client, nil, "sh", "-c", "echo parent >/tmp/word"); err != nil {
		t.Fatal(err)
	}
	family := map[string]*agentproto.Client{"parent": client}
	var last *vmm.VM
	for i, s := range []*vmm.Snapshot{snapshot, snapshot, copied} {
		name := fmt.Sprintf("child%d", i)
		start := time.Now()
		last, family[name] = forkGuest(ctx, t, s, vmm.ForkConfig{Disks: []*os.File{disk}}, name)
		t.Logf("%s answers after %v", name, time.Since(start))
	}
	var all sync.WaitGroup
	for name, c := range family {
		all.Go(func() { checkRelative(ctx, t, name, c) })
	}
	all.Wait()
	if _, err := open.Write([]byte("x")); err != nil {
		t.Errorf("the parent's own connection: %v", err)
	}
	// A copy of a copy, of which the others know nothing.
	if err := copied.Close(); err != nil {
		t.Error(err)
	}
	grandchild := branch(ctx, t, last, family["child2"])
	_, c := forkGuest(ctx, t, grandchild, vmm.ForkConfig{Disks: []*os.File{disk}}, "grandchild")
	if got, err := run(ctx, c, nil, "cat", "/tmp/word"); err != nil || got != "child2\n" {
		t.Errorf("the copy of a copy: %q, %v", got, err)
	}
}

// checkRelative has a guest say who it is, and go on counting.
func checkRelative(ctx context.Context, t *testing.T, name string, c *agentproto.Client) {
	word, err := run(ctx, c, nil, "cat", "/tmp/word")
	want := "before\n"
	if name == "parent" {
		want = "parent\n"
	}
	if err != nil || word != want {
		t.Errorf("%s: the word is %q, %v", name, word, err)
		return
	}
	if _, err := run(ctx, c, nil, "sh", "-c", "echo "+name+" >/tmp/word"); err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	const goesOn = `a=$(cat /tmp/n); for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
[ "$(cat /tmp/n)" = "$a" ] || break; sleep 0.1; done; [ "$(cat /tmp/n)" != "$a" ] && cat /tmp/word`
	if got, err := run(ctx, c, nil, "sh", "-c", goesOn); err != nil || got != name+"\n" {
		t.Errorf("%s: %q, %v", name, got, err)
	}
	if name == "parent" {
		return
	}
	if got, err := run(ctx, c, nil, "hostname"); err != nil || got != name+"\n" {
		t.Errorf("%s: the name is %q, %v", name, got, err)
	}
}

func duplicates(t testing.TB, files []*os.File) []*os.File {
	t.Helper()
	var list []*os.File
	for _, f := range files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, os.NewFile(uintptr(fd), "layer"))
	}
	return list
}

func TestForkRefuses(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	_, disk := guestFiles(t)
	parent, client := bootGuest(t, nil)
	if err := client.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	snapshot := branch(ctx, t, parent, client)
	for name, cfg := range map[string]vmm.ForkConfig{
		"no disk":   {},
		"two disks": {Disks: []*os.File{disk, disk}},
		"network":   {Disks: []*os.File{disk}, Network: &vmm.Network{}},
	} {
		if vm, err := vmm.Fork(snapshot, cfg); vm != nil || !errors.Is(err, vmm.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := snapshot.Close(); err != nil {
		t.Error(err)
	}
	if vm, err := vmm.Fork(snapshot, vmm.ForkConfig{Disks: []*os.File{disk}}); vm != nil || !errors.Is(err, vmm.ErrSnapshot) {
		t.Errorf("of a closed snapshot: %v", err)
	}
	parent.Stop()
	if _, err := parent.Branch(); !errors.Is(err, vmm.ErrEnded) {
		t.Errorf("branch of an ended guest: %v", err)
	}
	if _, err := run(ctx, client, nil, "true"); err == nil || errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("an ended guest: %v", err)
	}
}

// BenchmarkFork is the time from a snapshot to the agent's answer, and where it goes: making the VM, and its
// way to the answer.
func BenchmarkFork(b *testing.B) {
	_, disk := guestFiles(b)
	parent, client := bootGuest(b, nil)
	ctx := b.Context()
	if err := client.Ping(ctx); err != nil {
		b.Fatal(err)
	}
	snapshot := branch(ctx, b, parent, client)
	benchmarkCopy(b, disk, func() *vmm.Snapshot { return snapshot }, false)
}

// minorFaults is how many pages this process, its guests among it, has had mapped so far.
func minorFaults(b *testing.B) int64 {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Minflt
}
