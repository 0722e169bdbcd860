package cell

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/failcalls"
	"github.com/aethervm/aether/internal/microguest"
	"github.com/aethervm/aether/internal/snapshot"
	"github.com/aethervm/aether/vmm"
)

// beater is a guest that counts in a register, from start on, and from 0 on at two places of its memory. It says "on" for as
// long as they agree, and "bad" from the moment on that they do not: it is another one than it was.
func beater(start byte) []byte {
	const first, second = 0x1800000, 0x2800000
	with := func(operand uint32, op ...byte) []byte { return binary.LittleEndian.AppendUint32(op, operand) }
	bad := append(microguest.Say("bad\n"), 0xeb, 0)
	bad[len(bad)-1] = byte(-len(bad)) // jmp to its start
	var loop []byte
	var jumps []int                 // to bad
	loop = append(loop, 0xff, 0xc3) // inc ebx
	for _, at := range []uint32{first, second} {
		loop = append(loop, with(at, 0xff, 0x04, 0x25)...) // inc dword [at]
	}
	for _, at := range []uint32{first, second} {
		loop = append(loop, with(at, 0x3b, 0x1c, 0x25)...) // cmp ebx, [at]
		loop = append(loop, with(0, 0x0f, 0x85)...)        // jne
		jumps = append(jumps, len(loop))
	}
	loop = append(loop, microguest.Say("on\n")...)
	loop = append(loop, 0xb9, 0, 4, 0, 0, 0xf3, 0x90, 0xff, 0xc9, 0x75, 0xfa) // mov ecx, 1024; pause; dec ecx; jnz pause
	loop = append(loop, with(-uint32(len(loop)+5), 0xe9)...)                  // jmp to its start
	for _, from := range jumps {
		binary.LittleEndian.PutUint32(loop[from-4:], uint32(len(loop)-from))
	}
	return slices.Concat([]byte{0xbb, start, 0, 0, 0}, microguest.Say("up\n"), loop, bad) // mov ebx, start
}

// A beater that is not what it was says so.
func TestBeater(t *testing.T) {
	for start, want := range map[byte]string{0: "", 7: "WRONG"} {
		var p pulse
		c := startGuest(t, func(cfg *Config) { cfg.Console = &p }, beater(start))
		if err := p.beats(c, false); (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("from %d on: %v", start, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// pulse counts what a beater says.
type pulse struct {
	mu   sync.Mutex
	said []byte
	on   int
}

func (p *pulse) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.on += strings.Count(string(b), "o")
	p.said = append(p.said, b...)
	p.said = p.said[max(0, len(p.said)-64):]
	return len(b), nil
}

// beats waits until the guest has said so much more, and nothing that is wrong; a copy does not begin anew.
func (p *pulse) beats(c *Cell, copied bool) error {
	const more = 3
	p.mu.Lock()
	before := p.on
	p.mu.Unlock()
	for start := time.Now(); ; time.Sleep(200 * time.Microsecond) {
		p.mu.Lock()
		on, said := p.on, string(p.said)
		p.mu.Unlock()
		switch {
		case strings.Contains(said, "b"), copied && strings.Contains(said, "u"):
			return fmt.Errorf("WRONG: the guest says %q", said)
		case on >= before+more:
			return nil
		case c.End() != nil:
			return c.End()
		case time.Since(start) > 10*time.Second:
			return fmt.Errorf("WRONG: the guest stands still, and has said %q", said)
		}
	}
}

// An owner whose system calls fail, and the orders that it takes on its standard input, one a line. It answers each with a
// faultAnswer.

const faultsEnv = "AETHER_CELL_FAULTS"

type faultAnswer struct {
	Err      string // of the order
	Wrong    string // what must never be
	Parent   int    // the process of the cell that is branched
	Files    []string
	Deadline bool // it has not come to an end by itself
}

// faultCalls are the system calls that are made to fail, of the owner and of cells.
var faultCalls = []uint32{
	unix.SYS_OPENAT, unix.SYS_MEMFD_CREATE, unix.SYS_SOCKETPAIR, unix.SYS_SOCKET, unix.SYS_BIND, unix.SYS_FCNTL, unix.SYS_PIPE2,
	unix.SYS_CLONE, unix.SYS_EXECVE, unix.SYS_MKDIRAT, unix.SYS_SENDMSG, unix.SYS_RECVMSG, unix.SYS_FALLOCATE, unix.SYS_PWRITE64, unix.SYS_FTRUNCATE,
	unix.SYS_FSYNC, unix.SYS_RENAMEAT, unix.SYS_FCHMOD, unix.SYS_EPOLL_CTL, unix.SYS_FSTAT, unix.SYS_IOCTL, unix.SYS_MMAP, unix.SYS_WRITE,
	unix.SYS_MOUNT, unix.SYS_PIVOT_ROOT, unix.SYS_UMOUNT2, unix.SYS_CHDIR, unix.SYS_PRLIMIT64, unix.SYS_SECCOMP, unix.SYS_LANDLOCK_CREATE_RULESET,
	unix.SYS_LANDLOCK_RESTRICT_SELF, unix.SYS_CAPSET, unix.SYS_PREAD64,
}

type faultOwner struct {
	kernel, program *os.File
	dir             string // for what is saved
	parent          *Cell
	pulse           pulse
	missing         []string // of what confines the parent
	next            int
}

func faultsMain() {
	if err := func() error {
		o := &faultOwner{program: thisProgram(), dir: os.Getenv(faultsEnv)}
		if name := os.Getenv(faultsEnv + "_PROGRAM"); name != "" {
			var err error
			if o.program, err = os.Open(name); err != nil {
				return err
			}
		}
		var err error
		if o.kernel, err = os.Open(filepath.Join(o.dir, "kernel")); err != nil {
			return err
		}
		o.dir = filepath.Join(o.dir, "saved")
		if err := failcalls.Offer(faultCalls...); err != nil {
			return err
		}
		lines, answers := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
		for lines.Scan() {
			answer := o.obey
			if lines.Text() == "look" {
				answer = o.look
			}
			if err := answers.Encode(answer(lines.Text())); err != nil {
				return err
			}
		}
		return o.parent.Close()
	}(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// obey does what a line asks for.
func (o *faultOwner) obey(order string) (a faultAnswer) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := map[string]func(context.Context) error{
		"parent": o.begin, "start": o.start, "branch": o.branch, "fork": o.fork, "share": o.share, "save": o.save, "restore": o.restore,
	}[order](ctx)
	if err != nil {
		a.Err, a.Deadline = err.Error(), ctx.Err() != nil
	}
	if strings.Contains(a.Err, "WRONG") {
		a.Wrong = a.Err
	}
	return a
}

// look finds out what an order has left, and whether the parent goes on, when nothing fails any more.
func (o *faultOwner) look(string) (a faultAnswer) {
	a.Parent = o.parent.PID()
	var wrong []string
	if err := o.pulse.beats(o.parent, false); err != nil {
		wrong = append(wrong, "the parent: "+err.Error())
	}
	a.Files = openFiles()
	if left := o.left(); left != "" {
		wrong = append(wrong, "left: "+left)
	}
	a.Wrong = strings.Join(wrong, "; ")
	return a
}

func openFiles() (list []string) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			list = append(list, to)
		}
	}
	return list
}

// left lists processes and control groups that are not the parent's, and files.
func (o *faultOwner) left() string {
	var list []string
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for pid := range strings.FieldsSeq(string(text)) {
			if pid != itoa(o.parent.PID()) {
				list = append(list, "process "+pid)
			}
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
		found, _ := filepath.Glob(pattern + o.id("-*"))
		list = append(list, found...)
	}
	files, _ := os.ReadDir(o.dir)
	for _, f := range files {
		if f.Name() != "machine" {
			list = append(list, f.Name())
		}
	}
	return strings.Join(list, ", ")
}

// id is the name of the parent, and how those of the other cells begin.
func (o *faultOwner) id(more string) string {
	return fmt.Sprintf("aether-faults-%d%s", os.Getpid(), more)
}

func (o *faultOwner) begin(ctx context.Context) (err error) {
	if o.parent != nil {
		if err := o.parent.Close(); err != nil {
			return err
		}
	}
	o.parent, err = Start(ctx, Config{ID: o.id(""), Program: o.program, Kernel: o.kernel, VCPUs: 1, MemoryMiB: 64, Console: &o.pulse})
	if err != nil {
		return err
	}
	for _, l := range o.parent.Confinement().Missing() {
		o.missing = append(o.missing, l.Name)
	}
	for _, err := range []error{o.pulse.beats(o.parent, false), o.fork(ctx)} {
		if err != nil {
			return err
		}
	}
	b, err := o.parent.Branch(ctx)
	if err != nil {
		return err
	}
	return errors.Join(o.write(ctx, b, filepath.Join(o.dir, "machine")), b.Close())
}

// run starts a cell, looks whether it is whole, and closes it.
func (o *faultOwner) run(ctx context.Context, cfg Config) error {
	var p pulse
	c, err := o.make(ctx, cfg, &p, Start)
	if err != nil {
		return err
	}
	return errors.Join(o.whole(c, cfg, &p), c.Close())
}

// make starts a cell, by start, under an ID of its own.
func (o *faultOwner) make(ctx context.Context, cfg Config, p *pulse, start func(context.Context, Config) (*Cell, error)) (*Cell, error) {
	o.next++
	cfg.ID, cfg.Program, cfg.Console = o.id(fmt.Sprintf("-%d", o.next)), o.program, p
	return start(ctx, cfg)
}

// whole looks whether a cell is.
func (o *faultOwner) whole(c *Cell, cfg Config, p *pulse) error {
	err := p.beats(c, cfg.From != nil)
	for _, l := range c.Confinement().Missing() {
		if !slices.Contains(o.missing, l.Name) {
			err = errors.Join(err, fmt.Errorf("WRONG: not confined by %s: %s", l.Name, l.Detail))
		}
	}
	return err
}

// share has two copies share a process, and one of them go on when the other has ended.
func (o *faultOwner) share(ctx context.Context) (err error) {
	b, err := o.parent.Branch(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	o.next++
	s, err := Share(ctx, SharedConfig{Places: 2, SpareConfig: SpareConfig{
		ID: o.id(fmt.Sprintf("-%d", o.next)), Program: o.program, VCPUs: 1, MemoryMiB: 64,
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	cfg, pulses := Config{From: b}, make([]pulse, 2)
	var cells []*Cell
	for i := range pulses {
		c, err := o.make(ctx, cfg, &pulses[i], s.Start)
		if err != nil {
			return errors.Join(err, closeCells(cells))
		}
		cells = append(cells, c)
	}
	err = errors.Join(o.whole(cells[0], cfg, &pulses[0]), cells[0].Close())
	return errors.Join(err, o.whole(cells[1], cfg, &pulses[1]), cells[1].Close())
}

func closeCells(cells []*Cell) error {
	var errs []error
	for _, c := range cells {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func (o *faultOwner) start(ctx context.Context) error {
	return o.run(ctx, Config{Kernel: o.kernel, VCPUs: 1, MemoryMiB: 64})
}

func (o *faultOwner) branch(ctx context.Context) error {
	b, err := o.parent.Branch(ctx)
	if err != nil {
		return err
	}
	return b.Close()
}

func (o *faultOwner) fork(ctx context.Context) error {
	b, err := o.parent.Branch(ctx)
	if err != nil {
		return err
	}
	return errors.Join(o.run(ctx, Config{From: b}), b.Close())
}

func (o *faultOwner) save(ctx context.Context) error {
	b, err := o.parent.Branch(ctx)
	if err != nil {
		return err
	}
	path := filepath.Join(o.dir, "another")
	if err := errors.Join(o.write(ctx, b, path), b.Close()); err != nil {
		return err
	}
	return errors.Join(o.readable(ctx, "another"), os.Remove(path))
}

// readable tells whether a file that was saved is whole.
func (o *faultOwner) readable(ctx context.Context, name string) error {
	f, err := snapshot.Open(filepath.Join(o.dir, name))
	if err != nil {
		return err
	}
	return errors.Join(f.Verify(ctx), f.Close())
}

func (o *faultOwner) write(ctx context.Context, b *Branch, path string) error {
	w, err := snapshot.Create(path)
	if err != nil {
		return err
	}
	state, err := b.Save(ctx, w)
	if err == nil {
		_, err = w.Finish(snapshot.About{VCPUs: 1, MemoryMiB: 64}, state, nil)
	}
	return errors.Join(err, w.Abort())
}

func (o *faultOwner) restore(ctx context.Context) (err error) {
	f, err := snapshot.Open(filepath.Join(o.dir, "machine"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Verify(ctx); err != nil {
		return err
	}
	state, err := vmm.SavedState(f, 64<<20)
	if err != nil {
		return err
	}
	b, err := OpenSaved(Saved{VCPUs: 1, MemoryMiB: 64, State: state, Memory: f.File()})
	if err != nil {
		return err
	}
	return errors.Join(o.run(ctx, Config{From: b}), b.Close())
}
