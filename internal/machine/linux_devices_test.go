package machine

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/virtio"
	"github.com/aethervm/aether/internal/virtio/blk"
	"github.com/aethervm/aether/internal/virtio/rng"
	"github.com/aethervm/aether/internal/virtio/vsock"
)

const (
	testPort = 5005
	testCID  = 3
	echoSize = 4 << 20
)

// useDevices is the guest's half of TestLinuxDevices.
func useDevices() error {
	list, err := os.ReadFile("/modules")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(list)) {
		data, err := os.ReadFile("/" + name)
		if err != nil {
			return err
		}
		if err := unix.InitModule(data, ""); err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	disk, err := openSoon("/dev/vda")
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(sum, disk)
	if err != nil {
		return err
	}
	fmt.Printf("guest disk=%d %x\n", n, sum.Sum(nil))
	random, err := openSoon("/dev/hwrng")
	if err != nil {
		return err
	}
	var b [32]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return err
	}
	fmt.Printf("guest random=%v\n", b != [32]byte{})
	return echo()
}

// openSoon waits for a device whose driver has just been loaded.
func openSoon(name string) (*os.File, error) {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		f, err := os.Open(name)
		if err == nil || time.Since(start) > 10*time.Second {
			return f, err
		}
	}
}

// echo sends back all that comes over a connection to the host.
func echo() error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: testPort}); err != nil {
		return fmt.Errorf("connect to the host: %w", err)
	}
	conn := os.NewFile(uintptr(fd), "vsock")
	n, err := io.Copy(onlyWriter{conn}, onlyReader{conn})
	fmt.Printf("guest echoed=%d\n", n)
	return errors.Join(err, conn.Close())
}

// Without them io.Copy would ask the kernel to splice, which vsock does not do between sockets.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)

// A guest reads a disk and random bytes and talks over a socket, with the drivers of its kernel.
func TestLinuxDevices(t *testing.T) {
	for _, vcpus := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d vCPUs", vcpus), func(t *testing.T) { testDevices(t, vcpus) })
	}
}

func testDevices(t *testing.T, vcpus int) {
	content := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(content)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	image, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = image.Close() })
	disk, err := blk.New(blk.Config{Image: image, ID: "test"})
	if err != nil {
		t.Fatal(err)
	}
	socket, err := vsock.New(testCID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	listener, err := socket.Listen(testPort)
	if err != nil {
		t.Fatal(err)
	}
	m := bootLinux(t, vcpus, 256, "quiet test.devices", virtio.Device(disk), rng.New(), socket)
	back := make(chan error, 1)
	go func() { back <- exchange(listener.Accept, content[:echoSize]) }()
	end := waitLinux(t, m)
	socket.Reset() // the guest may not have come as far as to talk
	_ = listener.Close()
	if err := <-back; err != nil {
		t.Errorf("exchange with the guest: %v", err)
	}
	for _, want := range []string{
		fmt.Sprintf("guest disk=%d %x", len(content), sha256.Sum256(content)),
		"guest random=true", fmt.Sprintf("guest echoed=%d", echoSize), "guest done",
	} {
		if !strings.Contains(string(end.Console), want) {
			t.Errorf("the guest did not print %q", want)
		}
	}
	if end.Reason != PoweredOff {
		t.Errorf("ended with %v", end)
	}
	if t.Failed() {
		t.Logf("console:\n%s", end.Console)
	}
}

// exchange sends data over the next connection and expects it back. Only then does it say that there is no
// more, so that the guest, which ends with its echo, does not end before all of it has arrived.
func exchange(accept func() (net.Conn, error), data []byte) error {
	conn, err := accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	_, err = io.ReadFull(conn, got)
	if err != nil {
		_ = conn.Close() // ends the sender
	}
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if !bytes.Equal(got, data) {
		return errors.New("what came back differs")
	}
	return conn.(interface{ CloseWrite() error }).CloseWrite()
}
