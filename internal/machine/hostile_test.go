package machine

import (
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/boot"
	"github.com/aethervm/aether/internal/guestmem"
	"github.com/aethervm/aether/internal/microguest"
	"github.com/aethervm/aether/internal/virtio"
)

// attack is a guest that does its worst, on as many vCPUs as there are pieces of code. Each piece
// counts its rounds.
type attack struct {
	devices []virtio.Device
	code    [][]byte
	// once is what the first vCPU does before its rounds.
	once []byte
	ram  memory
	// waits is how many vCPUs, the last ones, may be held up by a device for as long as they keep it busy.
	waits int
	// breaks says that a device is stopped because of the guest; otherwise none is, unless mayBreak.
	breaks, mayBreak bool
	// ends are the ways in which the machine ends by itself, unless mayEnd says that it may go on; if
	// there are none, it does not.
	ends   []Reason
	mayEnd bool
	// before, during and after, if not nil, are what the host does before the machine runs, while the
	// guest is at work, and when the machine is closed.
	before, during, after func(*testing.T)
	// grows is how far the host's heap may have grown during the attack, in bytes: what the devices'
	// bounds add up to. 0 stands for 16 MiB.
	grows uint64
}

const (
	attackRounds = 10
	heapSlack    = 16 << 20
)

// run lets the guest do its worst beside a neighbour in the same process, and checks that it costs
// only itself: the neighbour goes on; the machine can be paused, stopped and closed, whatever it is at;
// nothing is left of it; the host's log has one line for each device that was broken.
func (a attack) run(t *testing.T) {
	n := newNeighbour(t)
	before := holdings(t)
	log := &stopLog{devices: map[string]int{}}
	if a.ram == nil {
		a.ram = memory{}
	}
	for i, c := range a.code {
		a.code[i] = forever(c, increment(rounds(i)))
	}
	a.code[0] = slices.Concat(a.once, a.code[0])
	if a.before != nil {
		a.before(t)
	}
	m, mem := prepare(t, Config{Devices: a.devices, DeviceStopped: log.add}, a.code, a.ram)

	a.work(t, m, mem)
	n.goesOn(t)
	if a.during != nil {
		a.during(t)
	}
	during := holdings(t)
	if grown := during.heap - before.heap; grown > max(int64(a.grows), heapSlack) {
		t.Errorf("the heap has grown by %d KiB", grown>>10)
	}
	for range 3 {
		within(t, "Pause", m.Pause)
		from := a.counters(t, mem)
		n.goesOn(t)
		if to := a.counters(t, mem); !slices.Equal(from, to) {
			t.Errorf("a paused guest counted from %v to %v", from, to)
		}
		within(t, "Resume", m.Resume)
		a.work(t, m, mem)
	}
	if len(a.ends) > 0 && !a.mayEnd {
		if end := wait(t, m); !slices.Contains(a.ends, end.Reason) {
			t.Errorf("ended with %v", end)
		}
	}
	within(t, "Stop", m.Stop)
	if end := wait(t, m); len(a.ends) == 0 && end.Reason != Stopped {
		t.Errorf("ended with %v", end)
	}
	within(t, "Close", func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	if a.after != nil {
		a.after(t)
	}
	n.goesOn(t)
	log.check(t, a.breaks, a.mayBreak)
	if err := mem.Close(); err != nil {
		t.Error(err)
	}
	nothingLeft(t, before)
}

// work waits until every vCPU has done some rounds more, or the machine has ended as it may.
func (a attack) work(t *testing.T, m *Machine, mem *guestmem.Memory) {
	t.Helper()
	a.someRounds(t, m, mem, attackRounds)
}

func (a attack) someRounds(t *testing.T, m *Machine, mem *guestmem.Memory, some uint32) {
	t.Helper()
	from := a.counters(t, mem)
	for deadline := time.Now().Add(3 * endTimeout); ; time.Sleep(time.Millisecond) {
		select {
		case <-m.Done():
			end, err := m.Wait(t.Context())
			if err != nil || !slices.Contains(a.ends, end.Reason) {
				t.Fatalf("ended with %v, %v", end, err)
			}
			return
		default:
		}
		behind := -1
		for i, n := range a.counters(t, mem) {
			if n-from[i] < some {
				behind = i
			}
		}
		if behind < 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("vCPU %d does not get on: %v after %v", behind, a.counters(t, mem), from)
		}
	}
}

func (a attack) counters(t *testing.T, mem *guestmem.Memory) []uint32 {
	t.Helper()
	var out []uint32
	for i := range len(a.code) - a.waits {
		n, err := mem.LoadUint32(uint64(rounds(i)))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

// neighbour is a machine that does honest work: it reads a register of its device, over and over, and
// counts the right answers.
type neighbour struct{ mem *guestmem.Memory }

func newNeighbour(t *testing.T) *neighbour {
	t.Helper()
	config := setAddr(register(0, 0x100))
	read := []byte{
		0x8a, 0x07, // mov al, [rdi]
		0x3c, 'Q', // cmp al, 'Q'
		0x75, 0xfe, // jne to itself: a wrong answer ends the count
	}
	_, mem := start(t, Config{Devices: []virtio.Device{&testDevice{}}}, slices.Concat(config, forever(read, increment(microData)))...)
	n := &neighbour{mem: mem}
	n.goesOn(t)
	return n
}

// goesOn returns when the neighbour has counted on.
func (n *neighbour) goesOn(t *testing.T) {
	t.Helper()
	for range 10 {
		waitCounting(t, n.mem)
	}
}

// within fails the test if f does not return in time.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(2 * endTimeout):
		all := make([]byte, 1<<20)
		t.Fatalf("%s does not return:\n%s", what, all[:runtime.Stack(all, true)])
	}
}

// stopLog is a host's log of devices that were stopped.
type stopLog struct {
	mu      sync.Mutex
	devices map[string]int
}

func (l *stopLog) add(err error) {
	device, _, _ := strings.Cut(err.Error(), ":")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.devices[device]++
}

// check fails the test if there is not one line for each device that was broken.
func (l *stopLog) check(t *testing.T, broken, perhaps bool) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !perhaps && broken != (len(l.devices) > 0) {
		t.Errorf("stopped: %v", l.devices)
	}
	for device, lines := range l.devices {
		if lines != 1 {
			t.Errorf("%d lines in the log about one: %s", lines, device)
		}
	}
}

// held is what a process has.
type held struct {
	files, vcpus, goroutines int
	heap                     int64
}

func holdings(t *testing.T) held {
	t.Helper()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	u := usage(t)
	return held{files: u.files, vcpus: u.vcpus, goroutines: runtime.NumGoroutine(), heap: int64(s.HeapAlloc)}
}

// nothingLeft waits until the process has no more than before: goroutines end a moment after what
// they did.
func nothingLeft(t *testing.T, before held) {
	t.Helper()
	var now held
	for deadline := time.Now().Add(endTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		now = holdings(t)
		// The system that each machine opens is closed when the test ends.
		if now.files <= before.files+1 && now.vcpus <= before.vcpus && now.goroutines <= before.goroutines && now.heap <= before.heap+4<<20 {
			return
		}
	}
	t.Errorf("left: %+v, before %+v", now, before)
}

// A guest that accesses addresses and ports where nobody is.
func TestHostileAddresses(t *testing.T) {
	last := boot.DeviceAt(boot.MaxDevices - 1).Registers.End()
	var memoryCode []byte
	for _, addr := range []uint32{
		microMemory, 0x80000000, 0xbffffffc, register(1, 0), register(0, 0xffc), uint32(last), 0xdffffffc,
		boot.IOAPICAddr - 4, boot.IOAPICAddr + 0x20, boot.IOAPICAddr + 0xffc, boot.IOAPICAddr + 0x1000, 0xfed00000, 0xfffffff0,
	} {
		memoryCode = slices.Concat(memoryCode, setAddr(addr), []byte{
			0x8a, 0x07, // mov al, [rdi]
			0x66, 0x8b, 0x07, // mov ax, [rdi]
			0x8b, 0x07, // mov eax, [rdi]
			0x48, 0x8b, 0x07, // mov rax, [rdi]
			0x88, 0x07, // mov [rdi], al
			0x66, 0x89, 0x07, // mov [rdi], ax
			0x89, 0x07, // mov [rdi], eax
			0x48, 0x89, 0x07, // mov [rdi], rax
		})
	}
	// Across the border of two windows, and not aligned.
	memoryCode = slices.Concat(memoryCode, setAddr(register(0, 0xffd)), []byte{0x48, 0x8b, 0x07, 0x48, 0x89, 0x07})
	var portCode []byte
	for _, port := range []uint16{0, 0x20, 0x60, 0x80, 0xcf8, boot.SerialPort - 1, boot.SerialPort + 8, boot.SleepControlPort - 1, boot.ResetPort + 1, 0xffff} {
		portCode = slices.Concat(portCode, []byte{0x66, 0xba, byte(port), byte(port >> 8)}, // mov dx, port
			[]byte{0xec, 0x66, 0xed, 0xed, 0xee, 0x66, 0xef, 0xef},               // in and out of 1, 2 and 4 bytes
			setAddr(hostileBuffers), []byte{0xb9}, imm32(32), []byte{0xf3, 0x6c}, // mov ecx, 32; rep insb
			[]byte{0xbe}, imm32(hostileBuffers), []byte{0xb9}, imm32(16), []byte{0xf3, 0x6f}, // mov esi, buffers; mov ecx, 16; rep outsd
		)
	}
	// The serial port's registers, but not its data.
	for reg := uint16(1); reg < serialPorts; reg++ {
		portCode = slices.Concat(portCode, microguest.Out(boot.SerialPort+reg, byte(reg*37)), []byte{0xec})
	}
	t.Run("memory", attack{devices: []virtio.Device{&testDevice{}}, code: [][]byte{memoryCode}}.run)
	t.Run("ports", attack{code: [][]byte{portCode}}.run)
	t.Run("both", attack{devices: []virtio.Device{&testDevice{}}, code: [][]byte{memoryCode, portCode, memoryCode, portCode}}.run)
}

// A guest that floods the console: what is kept of it is bounded.
func TestHostileConsole(t *testing.T) {
	flood := slices.Concat(
		[]byte{0xbe}, imm32(hostileCode), []byte{0xb9}, imm32(512), // mov esi, code; mov ecx, 512
		[]byte{0x66, 0xba, boot.SerialPort & 0xff, boot.SerialPort >> 8, 0xf3, 0x6e}, // mov dx, port; rep outsb
		microguest.Out(boot.SerialPort+serialMCR, mcrLoopback), microguest.Out(boot.SerialPort, 'x'), microguest.Out(boot.SerialPort+serialMCR, 0),
		microguest.Out(boot.SerialPort+serialIER, ierMask), microguest.Out(boot.SerialPort+serialIER, 0),
	)
	attack{code: [][]byte{flood, flood}}.run(t)
}
