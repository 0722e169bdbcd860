package aethervm

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// writing fills memory with a number that grows, page after page, for ever. Another process watches that memory: in a copy,
// where it stops the writing first, all must be as one moment of the original was, and stay so. After the file /root/hold
// is there it is the other way round: the original stops and watches, and a copy writes other numbers.
const writing = `import mmap, os, sys, time
size, page, name = 2 << 20, 4096, sys.argv[1]
mem, flags = mmap.mmap(-1, size), mmap.mmap(-1, page)
STOP, TAG, PASSES = 0, 1, slice(8, 16)
def boot():
    with open('/proc/sys/kernel/random/boot_id') as f: return f.read()
def passes(): return int.from_bytes(flags[PASSES], 'little')
def say(what, text=''):
    with open(name + '.new', 'w') as f: f.write(text)
    os.rename(name + '.new', name + '.' + what)
first, reader = boot(), os.getpid()
if os.fork() == 0:
    n = 0
    while os.getppid() == reader:
        n += 1
        for at in range(0, size, page):
            while flags[STOP]: time.sleep(0.005)
            mem[at:at + page] = (n << 8 | flags[TAG]).to_bytes(8, 'little') * (page // 8)
        flags[PASSES] = n.to_bytes(8, 'little')
    sys.exit()
def watch(until):
    flags[STOP] = 1
    time.sleep(0.3) # for the page that is being written
    kept = mem[:]
    numbers = []
    for at in range(0, size, page):
        one = kept[at:at + 8]
        if kept[at:at + page] != one * (page // 8): return 'page %d is of several numbers' % (at // page)
        numbers.append(int.from_bytes(one, 'little') >> 8)
    steps = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1]]
    if len(steps) > 1 or steps and numbers[steps[0]] != numbers[0] - 1: return 'not of one moment: %s' % [(i, numbers[i]) for i in steps]
    while not until():
        if mem[:] != kept: return 'it has changed'
    return 'as it was'
say('begun')
while boot() == first and not os.path.exists('/root/hold'): time.sleep(0.02)
if boot() != first:
    end = time.monotonic() + 1
    say('seen', watch(lambda: time.monotonic() > end))
    sys.exit()
say('held')
seen = watch(lambda: boot() != first or os.path.exists('/root/release'))
if boot() == first:
    say('seen', seen)
    sys.exit()
flags[TAG], flags[STOP], enough = 1, 0, passes() + 3
while passes() < enough: time.sleep(0.01)
say('seen', 'has written')
`

// An original whose programs write all the time, and copies that look at what they have inherited, and the other way round.
func TestForkWhileWriting(t *testing.T) {
	for _, vcpus := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d vCPUs", vcpus), func(t *testing.T) { testForkWhileWriting(t, vcpus) })
	}
}

func testForkWhileWriting(t *testing.T, vcpus int) {
	d := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	raw, err := d.Create(ctx, sandbox.Spec{Image: testenv.Image(t), VCPUs: vcpus})
	if err != nil {
		t.Fatal(err)
	}
	original := raw.(*Sandbox)
	put := func(name, text string) {
		if err := original.WriteFile(ctx, name, bytes.NewReader([]byte(text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("/root/writing.py", writing)
	var programs []string
	for i := range vcpus {
		programs = append(programs, fmt.Sprintf("/root/%d", i))
		sh(t, original, "python3 /root/writing.py "+programs[i]+" >/dev/null 2>"+programs[i]+".err </dev/null &")
	}
	wait := func(b sandbox.Sandbox, what string) (all []string) {
		for _, p := range programs {
			const give = `for i in $(seq 600); do [ -e %[1]s.%[2]s ] && break; [ -s %[1]s.err ] && break; sleep 0.1; done; cat %[1]s.%[2]s %[1]s.err`
			all = append(all, sh(t, b, fmt.Sprintf(give, p, what)))
		}
		return all
	}
	wait(original, "begun")
	copies := func(want string) {
		list, err := original.Fork(ctx, 2)
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range list {
			for k, got := range wait(c, "seen") {
				if got != want {
					t.Errorf("program %d of copy %d: %s, not %s", k, i, got, want)
				}
			}
		}
		if err := closeSandboxes(list); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		copies("as it was")
	}
	put("/root/hold", "")
	wait(original, "held")
	copies("has written")
	put("/root/release", "")
	for k, got := range wait(original, "seen") {
		if got != "as it was" {
			t.Errorf("program %d of the original: %s", k, got)
		}
	}
}
