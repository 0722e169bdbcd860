package docker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/aethervm/aether/internal/lease"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
	"github.com/aethervm/aether/sandbox/sandboxtest"
)

func newDriver() (sandbox.Driver, error) { return New(Options{}) }

func TestMain(m *testing.M) { sandboxtest.Main(m, newDriver) }

// requireEngine goes on only where an engine can be driven.
func requireEngine(t testing.TB) *Driver {
	t.Helper()
	testenv.Agent(t)
	d, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close driver: %v", err)
		}
	})
	if info := d.Probe(t.Context()); !info.Available {
		testenv.Require(t, "DOCKER", info.Reason+"; "+info.Remedy)
	}
	return d
}

func config(t testing.TB) sandboxtest.Config {
	d := requireEngine(t)
	img := testenv.Image(t)
	eng, err := d.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The first container leaves the engine with things that it keeps, such as a parent cgroup.
	b, err := d.Create(t.Context(), sandbox.Spec{Image: img})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	return sandboxtest.Config{New: newDriver, Image: img, Traces: eng.traces}
}

// traces lists what the engine keeps for sandboxes.
func (e *engine) traces(ctx context.Context) ([]string, error) {
	var all []string
	containers, err := e.cli.ContainerList(ctx, client.ContainerListOptions{All: true})
	for _, c := range containers.Items {
		all = append(all, fmt.Sprintf("container %s %v", c.ID, c.Names))
	}
	images, imagesErr := e.cli.ImageList(ctx, client.ImageListOptions{})
	for _, i := range images.Items {
		all = append(all, fmt.Sprintf("image %s %v", i.ID, i.RepoTags))
	}
	volumes, volumesErr := e.cli.VolumeList(ctx, client.VolumeListOptions{})
	for _, v := range volumes.Items {
		all = append(all, "volume "+v.Name)
	}
	networks, networksErr := e.cli.NetworkList(ctx, client.NetworkListOptions{})
	for _, n := range networks.Items {
		all = append(all, "network "+n.Name)
	}
	return all, errors.Join(err, imagesErr, volumesErr, networksErr)
}

func TestConformance(t *testing.T) { sandboxtest.Run(t, config(t)) }

// TestSlowReaderLosesNothing reads more slowly than the engine is willing to wait, once the program has
// ended and what is left fills the engine's buffers.
func TestSlowReaderLosesNothing(t *testing.T) {
	d := requireEngine(t)
	b, err := d.Create(t.Context(), sandbox.Spec{Image: testenv.Image(t)})
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1_300_000, 1_800_000} {
		got := 0
		slow := writerFunc(func(p []byte) (int, error) {
			time.Sleep(150 * time.Millisecond)
			got += len(p)
			return len(p), nil
		})
		exit, err := b.Exec(t.Context(), sandbox.Cmd{Args: []string{"head", "-c", strconv.Itoa(size), "/dev/zero"}, Stdout: slow})
		if err != nil || !exit.Success() || got != size {
			t.Errorf("%d of %d bytes, %v, %v", got, size, exit, err)
		}
	}
}

// TestLimitsHold reads from inside what the container may use.
func TestLimitsHold(t *testing.T) {
	d := requireEngine(t)
	b, err := d.Create(t.Context(), sandbox.Spec{Image: testenv.Image(t), MemoryMiB: 128, Processes: 100})
	if err != nil {
		t.Fatal(err)
	}
	exec := func(args ...string) (string, sandbox.Exit) {
		t.Helper()
		var out bytes.Buffer
		exit, err := b.Exec(t.Context(), sandbox.Cmd{Args: args, Stdout: &out})
		if err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		return out.String(), exit
	}
	if _, exit := exec("python3", "-c", "x = bytearray(200 << 20)"); exit.Success() {
		t.Error("200 MiB fit into a sandbox of 128 MiB")
	}
	// Forks until it cannot, and says how often it could.
	out, _ := exec("python3", "-c", `import os, signal, time
pids = []
try:
    while len(pids) < 1000:
        pid = os.fork()
        if pid == 0: time.sleep(60)
        pids.append(pid)
except OSError: pass
for pid in pids: os.kill(pid, signal.SIGKILL)
print(len(pids))`)
	if n, err := strconv.Atoi(strings.TrimSpace(out)); err != nil || n < 100 || n > 100+agentProcesses {
		t.Errorf("%q processes with a limit of 100", out)
	}
	out, _ = exec("grep", "-E", "^(NoNewPrivs|Seccomp|CapEff):", "/proc/self/status")
	// Docker's default set of capabilities, and its seccomp filter.
	for _, want := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n", "CapEff:\t00000000a80425fb\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("status lacks %q:\n%s", want, out)
		}
	}
}

// TestSnapshotOutlivesItsDriver takes a snapshot with one driver and restores it with another.
func TestSnapshotOutlivesItsDriver(t *testing.T) {
	img := testenv.Image(t)
	first := requireEngine(t)
	b, err := first.Create(t.Context(), sandbox.Spec{Image: img})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.WriteFile(t.Context(), "/root/mark", strings.NewReader("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	snap, err := b.(sandbox.Snapshotter).Snapshot(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := requireEngine(t)
	if _, err := second.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	restored, err := second.Restore(t.Context(), snap)
	if err != nil {
		t.Fatalf("restore with another driver after a sweep: %v", err)
	}
	if info, err := restored.Stat(t.Context(), "/root/mark"); err != nil || info.Size != 1 {
		t.Errorf("got %+v, %v", info, err)
	}
	if err := second.RemoveSnapshot(t.Context(), snap); err != nil {
		t.Error(err)
	}
}

// TestImportAtOnce imports one image from many drivers, as processes that start together do.
func TestImportAtOnce(t *testing.T) {
	requireEngine(t)
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "file"), []byte(lease.NewID()), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(root))
	img := sandbox.Image{Digest: "sha256:" + hex.EncodeToString(sum[:]), Rootfs: root}
	ids := make([]string, 6)
	engines := make([]*engine, len(ids))
	var wg sync.WaitGroup
	for i := range ids {
		eng, err := requireEngine(t).connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		engines[i] = eng
		wg.Go(func() {
			var err error
			if ids[i], err = eng.importImage(t.Context(), img); err != nil {
				t.Errorf("import: %v", err)
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Errorf("images %q, want one", ids)
			break
		}
	}
	tag, err := imageTag(img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := engines[0].cli.ImageRemove(t.Context(), tag, client.ImageRemoveOptions{}); err != nil {
		t.Error(err)
	}
}

// TestDaemons checks that the processes named are what they are said to be.
func TestDaemons(t *testing.T) {
	d := requireEngine(t)
	list, err := d.Daemons(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range list {
		if p.Role != sandbox.RoleDaemon {
			t.Errorf("role of %+v", p)
		}
		names = append(names, commandName(p.PID))
	}
	if strings.Join(names, " ") != "dockerd containerd" {
		t.Errorf("daemons: %q", names)
	}
}

func BenchmarkDocker(b *testing.B) { sandboxtest.Bench(b, config(b)) }
