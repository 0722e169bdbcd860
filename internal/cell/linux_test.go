package cell

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/hostdir"
	"github.com/aethervm/aether/internal/initramfs"
	"github.com/aethervm/aether/internal/kernel"
	"github.com/aethervm/aether/internal/kvm"
	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/vmm"
)

const (
	echoPort = 5005
	offPort  = 5006
)

// guestMain is this program as the guest's init: it sends back what it is sent, until it is to end.
func guestMain() {
	if err := serveGuest(); err != nil {
		fmt.Println("guest error:", err)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func serveGuest() error {
	if err := unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil {
		return err
	}
	list, err := os.ReadFile("/modules")
	if err != nil {
		return err
	}
	var echo, off int
	names := strings.Fields(string(list))
	for i, name := range names {
		data, err := os.ReadFile("/" + name)
		if err != nil {
			return err
		}
		// The sockets' driver is the last one: a host that sees it may connect at once.
		if i == len(names)-1 {
			if echo, err = listenVsock(echoPort); err == nil {
				off, err = listenVsock(offPort)
			}
			if err != nil {
				return err
			}
		}
		if err := unix.InitModule(data, ""); err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	disk, err := os.ReadFile("/dev/vda")
	if err != nil {
		return err
	}
	fmt.Printf("guest disk=%x\n", sha256.Sum256(disk))
	go func() {
		for {
			fd, _, err := unix.Accept(echo)
			if err != nil {
				return
			}
			go func() {
				conn := os.NewFile(uintptr(fd), "vsock")
				_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
				_ = conn.Close()
			}()
		}
	}()
	fmt.Println("guest ready")
	_, _, err = unix.Accept(off)
	return err
}

func listenVsock(port uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port})
	}
	if err == nil {
		err = unix.Listen(fd, 64)
	}
	return fd, err
}

// linuxConfig is a cell with the newest kernel of this host's store and this program as init.
func linuxConfig(t testing.TB, vcpus int) (Config, []byte) {
	t.Helper()
	reality, err := kvm.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !reality.Real() {
		testenv.Require(t, "REAL_KVM", reality.Reason)
	}
	state, err := hostdir.State()
	if err != nil {
		t.Fatal(err)
	}
	k, err := kernel.Find(filepath.Join(state, "kernels"))
	if err != nil {
		testenv.Require(t, "KERNEL", err.Error())
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	files := []initramfs.File{{Name: "init", Mode: 0o755, Source: self}, {Name: "dev/.keep"}}
	var list strings.Builder
	for _, m := range k.Load("virtio_mmio", "virtio_blk", "virtio_balloon", "vmw_vsock_virtio_transport") {
		files = append(files, initramfs.File{Name: m.Name, Mode: 0o644, Source: k.ModulePath(m)})
		fmt.Fprintln(&list, m.Name)
	}
	files = append(files, initramfs.File{Name: "modules", Mode: 0o644, Data: []byte(list.String())})
	var archive bytes.Buffer
	if err := initramfs.Write(&archive, files); err != nil {
		t.Fatal(err)
	}
	disk := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(disk)
	open := func(name string, content []byte) *os.File {
		if content != nil {
			name = filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(name, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	return Config{
		ID: testID, Program: program(t), Kernel: open(k.Vmlinux(), nil), Initramfs: open("initramfs", archive.Bytes()),
		Disks: []*os.File{open("disk", disk)}, Cmdline: "quiet", VCPUs: vcpus, MemoryMiB: 256,
	}, disk
}

// A stock kernel in a confined cell: disk, sockets, several connections, pause, the orderly end.
func TestLinux(t *testing.T) {
	for _, vcpus := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d vCPUs", vcpus), func(t *testing.T) { testLinux(t, vcpus) })
	}
}

func testLinux(t *testing.T, vcpus int) {
	cfg, disk := linuxConfig(t, vcpus)
	begin := time.Now()
	c, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	if missing := c.Confinement().Missing(); len(missing) > 0 {
		t.Errorf("missing: %+v", missing)
	}
	t.Logf("started after %v", time.Since(begin))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // the host of a test may be emulated
	defer cancel()
	conn, err := c.Dial(ctx, echoPort)
	if err != nil {
		t.Fatalf("%v; console: %q; end: %v", err, c.Console(), c.End())
	}
	t.Logf("connected after %v", time.Since(begin))
	if err := exchange(conn, 4<<20); err != nil {
		t.Error(err)
	}
	t.Logf("4 MiB there and back after %v", time.Since(begin))
	if _, err := c.Dial(ctx, echoPort+100); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial where nobody listens: %v", err)
	}
	results := make(chan error)
	const streams = 8
	for range streams {
		go func() {
			conn, err := c.Dial(ctx, echoPort)
			if err == nil {
				err = exchange(conn, 100<<10)
			}
			results <- err
		}()
	}
	if err := c.Pause(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Resume(ctx); err != nil {
		t.Error(err)
	}
	for range streams {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	for _, wait := range []time.Duration{0, freeInterval + time.Second} {
		time.Sleep(wait)
		own, guest := footprint(t, c)
		t.Logf("%d KiB of its own, %d KiB of the guest's memory, after %v", own, guest, wait)
	}
	// The guest ends at once, which may be faster than its answer.
	if conn, err := c.Dial(ctx, offPort); err == nil {
		_ = conn.Close()
	}
	if e := waitEnd(t, c); e.Reason != string(vmm.PoweredOff) {
		t.Errorf("ended with %+v", e)
	}
	want := fmt.Sprintf("guest disk=%x", sha256.Sum256(disk))
	if !slices.Contains(c.Console(), want) {
		t.Errorf("no %q on the console: %q", want, c.Console())
	}
}

// exchange sends size bytes and reads them back.
func exchange(conn interface {
	io.ReadWriteCloser
}, size int) error {
	defer func() { _ = conn.Close() }()
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(data)
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			err = half.CloseWrite()
		}
		sent <- err
	}()
	back, err := io.ReadAll(conn)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if !bytes.Equal(back, data) {
		return fmt.Errorf("%d bytes of %d came back", len(back), len(data))
	}
	return nil
}

// Killed at any moment of boot and use, a cell leaves nothing, and the next one starts.
func TestLinuxKilled(t *testing.T) {
	cfg, _ := linuxConfig(t, 1)
	for _, delay := range []time.Duration{5, 50, 300, 1000} {
		c, err := Start(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay * time.Millisecond)
		if err := unix.Kill(c.PID(), unix.SIGKILL); err != nil {
			t.Error(err)
		}
		if e := waitEnd(t, c); e.Reason != ReasonProcess {
			t.Errorf("ended with %+v", e)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	noLeftovers(t)
}

// A stock kernel in confined cells: a branch of one whose disk, sockets and processors were in use.
func TestLinuxBranch(t *testing.T) {
	for _, vcpus := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d vCPUs", vcpus), func(t *testing.T) { testLinuxBranch(t, vcpus) })
	}
}

func testLinuxBranch(t *testing.T, vcpus int) {
	cfg, _ := linuxConfig(t, vcpus)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // the host of a test may be emulated
	defer cancel()
	parent, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = parent.Close() }()
	open, err := parent.Dial(ctx, echoPort)
	if err != nil {
		t.Fatalf("%v; console: %q; end: %v", err, parent.Console(), parent.End())
	}
	for depth := range 3 {
		begin := time.Now()
		b, err := parent.Branch(ctx)
		if err != nil {
			t.Fatalf("depth %d: %v; end: %v", depth, err, parent.End())
		}
		n, size, err := b.Layers()
		t.Logf("depth %d: branch after %v: %d layers, %d KiB, %v", depth, time.Since(begin), n, size>>10, err)
		begin = time.Now()
		child, err := Start(ctx, Config{ID: fmt.Sprintf("%s-%d", testID, depth), Program: cfg.Program, Disks: cfg.Disks, From: b})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = child.Close() }()
		t.Logf("started after %v", time.Since(begin))
		if missing := child.Confinement().Missing(); len(missing) > 0 {
			t.Errorf("missing: %+v", missing)
		}
		conn, err := child.Dial(ctx, echoPort)
		if err != nil {
			t.Fatalf("%v; console: %q; end: %v", err, child.Console(), child.End())
		}
		t.Logf("connected after %v", time.Since(begin))
		if err := errors.Join(exchange(conn, 1<<20), b.Close()); err != nil {
			t.Error(err)
		}
		if depth == 0 {
			if err := exchange(open, 1<<20); err != nil {
				t.Errorf("the parent's own connection: %v", err)
			}
		}
		parent = child
	}
}
