package machine

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/microguest"
	"github.com/aethervm/aether/internal/virtio"
)

func TestEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		code   []byte
		reason Reason
		detail string
		tail   string
	}{
		"power-off":      {slices.Concat(microguest.Say("bye\n"), microguest.PowerOff()), PoweredOff, "", "bye\n"},
		"reset":          {slices.Concat(microguest.Say("again\n"), microguest.Reset()), Rebooted, "", "again\n"},
		"panic":          {slices.Concat(microguest.Say("x\nKernel panic - not syncing: boo\r\nmore"), microguest.Reset()), Panicked, "boo", "more"},
		"triple fault":   {[]byte{0x0f, 0x0b}, TripleFault, "", ""}, // ud2, without a handler for it
		"in a power-off": {slices.Concat(microguest.Out(boot.SleepControlPort, 5<<2), microguest.Out(boot.SleepStatusPort, 0xff), microguest.PowerOff()), PoweredOff, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			m, _ := start(t, Config{Console: &out}, tt.code...)
			end := wait(t, m)
			if end.Reason != tt.reason || end.Detail != tt.detail || !strings.HasSuffix(string(end.Console), tt.tail) {
				t.Errorf("ended with %v, console %q", end, end.Console)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			if out.String() != string(end.Console) {
				t.Errorf("passed on %q, kept %q", out.String(), end.Console)
			}
		})
	}
}

func counter(t *testing.T, mem *guestmem.Memory) uint32 {
	t.Helper()
	n, err := mem.LoadUint32(microData)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func waitCounting(t *testing.T, mem *guestmem.Memory) {
	t.Helper()
	from := counter(t, mem)
	for start := time.Now(); counter(t, mem) == from; time.Sleep(time.Millisecond) {
		if time.Since(start) > endTimeout {
			t.Fatal("the guest does not run")
		}
	}
}

func TestPause(t *testing.T) {
	m, mem := start(t, Config{VCPUs: 2}, count...)
	for range 20 {
		waitCounting(t, mem)
		m.Pause()
		m.Pause()
		m.Resume()
		n := counter(t, mem)
		time.Sleep(time.Millisecond)
		if after := counter(t, mem); after != n {
			t.Fatalf("a paused guest counted from %d to %d", n, after)
		}
		m.Resume()
	}
	waitCounting(t, mem)
	m.Pause()
	m.Stop() // a paused machine can be stopped
	if end := wait(t, m); end.Reason != Stopped {
		t.Errorf("ended with %v", end)
	}
	m.Pause() // and an ended one paused
	m.Resume()
}

func TestStopAtAnyTime(t *testing.T) {
	for i := range 30 {
		m, _ := start(t, Config{VCPUs: 1 + i%2}, count...)
		time.Sleep(time.Duration(i%5) * 100 * time.Microsecond)
		var callers sync.WaitGroup
		for range 3 {
			callers.Go(func() {
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		callers.Go(m.Pause)
		callers.Wait()
		if end := wait(t, m); end.Reason != Stopped {
			t.Errorf("ended with %v", end)
		}
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	m, _ := start(t, Config{}, count...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v", err)
	}
	if err := m.Start(boot.CPU{}); err == nil {
		t.Error("started twice")
	}
}

func TestNewRefuses(t *testing.T) {
	system, mem := openSystem(t), newMemory(t, microMemory)
	for name, cfg := range map[string]Config{
		"no vCPU":          {VCPUs: 0},
		"too many vCPUs":   {VCPUs: boot.MaxVCPUs + 1},
		"too many devices": {VCPUs: 1, Devices: make([]virtio.Device, boot.MaxDevices+1)},
		"a bad device":     {VCPUs: 1, Devices: []virtio.Device{&testDevice{sizes: []uint16{3}}}},
	} {
		cfg.System, cfg.Memory = system, mem
		if m, err := New(cfg); err == nil {
			t.Errorf("%s: no error, %v", name, m.Close())
		}
	}
	closed := newMemory(t, microMemory)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{System: system, Memory: closed, VCPUs: 1}); !errors.Is(err, guestmem.ErrClosed) {
		t.Errorf("closed memory: %v", err)
	}
	// If a failed New still held the memory, closing it would wait for ever.
	if err := mem.Close(); err != nil {
		t.Error(err)
	}
}

// testDevice is a virtio device with a byte of configuration.
type testDevice struct {
	sizes []uint16
	wrote []byte
}

func (*testDevice) ID() uint32                         { return 42 }
func (*testDevice) Features() uint64                   { return 0 }
func (d *testDevice) QueueSizes() []uint16             { return d.sizes }
func (*testDevice) ReadConfig(off int, p []byte)       { virtio.CopyConfig([]byte("Q"), off, p) }
func (d *testDevice) WriteConfig(_ int, p []byte)      { d.wrote = append(d.wrote, p...) }
func (*testDevice) Activate(virtio.Link) error         { return nil }
func (*testDevice) Process(int) (more bool, err error) { return false, nil }
func (*testDevice) Reset()                             {}

// The guest reads and writes the configuration of its second device.
func TestDeviceRegisters(t *testing.T) {
	config := boot.DeviceAt(1).Registers.GPA + 0x100
	first, second := &testDevice{}, &testDevice{}
	m, _ := start(t, Config{Devices: []virtio.Device{first, second}}, slices.Concat(
		[]byte{0xbf, byte(config), byte(config >> 8), byte(config >> 16), byte(config >> 24)}, // mov edi, config
		[]byte{0x8a, 0x07}, // mov al, [rdi]
		[]byte{0x66, 0xba, boot.SerialPort & 0xff, boot.SerialPort >> 8, 0xee}, // mov dx, port; out dx, al
		[]byte{0xfe, 0xc0, 0x88, 0x07},                                         // inc al; mov [rdi], al
		microguest.PowerOff(),
	)...)
	if end := wait(t, m); end.Reason != PoweredOff || string(end.Console) != "Q" {
		t.Errorf("ended with %v, console %q", end, end.Console)
	}
	if string(second.wrote) != "R" || first.wrote != nil {
		t.Errorf("written: %q, %q", first.wrote, second.wrote)
	}
}

func TestNothingLeaks(t *testing.T) {
	system, mem := openSystem(t), newMemory(t, microMemory)
	cycle := func() {
		cpu := loadMicro(t, mem, slices.Concat(microguest.Say("."), microguest.PowerOff())...)
		m, err := New(Config{System: system, Memory: mem, VCPUs: 2, Devices: []virtio.Device{&testDevice{}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Start(cpu); err != nil {
			t.Fatal(err)
		}
		end := wait(t, m)
		if err := m.Close(); err != nil || end.Reason != PoweredOff {
			t.Fatal(end, err)
		}
	}
	for range 20 { // let the runtime make its threads
		cycle()
	}
	before := usage(t)
	for range 200 {
		cycle()
	}
	after := usage(t)
	if after.files != before.files || after.vcpus != before.vcpus {
		t.Errorf("%+v, before %+v", after, before)
	}
	// The runtime may have added a thread for itself, not one a machine.
	if after.threads > before.threads+4 {
		t.Errorf("%d threads, before %d", after.threads, before.threads)
	}
	if grown := after.space - before.space; grown > 64<<20 {
		t.Errorf("the address space has grown by %d MiB", grown>>20)
	}
}

type resources struct{ files, threads, vcpus, space int }

func usage(t *testing.T) (r resources) {
	t.Helper()
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	list := func(name string) int {
		entries, err := os.ReadDir(name)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	pages, _, _ := strings.Cut(read("/proc/self/statm"), " ")
	n, err := strconv.Atoi(pages)
	if err != nil {
		t.Fatal(err)
	}
	return resources{
		files: list("/proc/self/fd"), threads: list("/proc/self/task"),
		vcpus: strings.Count(read("/proc/self/maps"), "kvm-vcpu"), space: n * os.Getpagesize(),
	}
}

// BenchmarkLife is a machine from nothing to its guest's power-off and away again.
func BenchmarkLife(b *testing.B) {
	system, mem := openSystem(b), newMemory(b, microMemory)
	cpu := loadMicro(b, mem, microguest.PowerOff()...)
	for b.Loop() {
		m, err := New(Config{System: system, Memory: mem, VCPUs: 1})
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Start(cpu); err != nil {
			b.Fatal(err)
		}
		<-m.Done()
		if err := m.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
