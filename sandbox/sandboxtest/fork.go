package sandboxtest

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// identity prints what must differ between any two sandboxes, one a line with its name.
const identity = `import os, socket, uuid, secrets
print('getrandom', os.getrandom(16).hex())
print('urandom', open('/dev/urandom', 'rb').read(16).hex())
print('uuid4', uuid.uuid4())
print('secrets', secrets.token_hex(16))
print('kernel-uuid', open('/proc/sys/kernel/random/uuid').read().strip())
print('boot-id', open('/proc/sys/kernel/random/boot_id').read().strip())
print('hostname', socket.gethostname())
try: print('machine-id', open('/etc/machine-id').read().strip())
except FileNotFoundError: pass`

// spinner writes what the kernel's random numbers are, over and over.
const spinner = `import os, time
open('/tmp/spinner.pid', 'w').write(str(os.getpid()))
with open('/tmp/random', 'w', buffering=1) as f:
    while True:
        for _ in range(10): print(os.getrandom(16).hex(), file=f)
        time.sleep(0.01)`

func (s *suite) testFork(t *testing.T, d sandbox.Driver) {
	ctx, cancel := bounded(t)
	defer cancel()
	original := s.create(t, d)
	forker, ok := original.Sandbox.(sandbox.Forker)
	if !ok {
		t.Skipf("%s offers no forks", d.System())
	}
	for _, n := range []int{0, -1} {
		if list, err := forker.Fork(ctx, n); !errors.Is(err, sandbox.ErrInvalid) || list != nil {
			t.Errorf("%d copies: %v, %v", n, list, err)
		}
	}
	original.startTicker(t)
	original.write(t, "/root/before", "before")
	original.write(t, "/tmp/identity.py", identity)
	original.write(t, "/tmp/spinner.py", spinner)
	original.sh(t, "timeout 600 python3 /tmp/spinner.py >/dev/null 2>&1 </dev/null &")
	if !eventually(20*time.Second, func() bool { return original.run(t, "test", "-s", "/tmp/random").Success() }) {
		t.Fatal("the spinner does not spin")
	}
	// A program that is being run, and is listened to by the original alone.
	input, mouth := io.Pipe()
	defer func() { _ = mouth.Close() }()
	listened := make(chan result, 1)
	go func() {
		cmd := shell("touch /root/running; read line; echo heard $line | tee /root/heard")
		cmd.Stdin = input
		r, err := original.exec(t, cmd)
		if err != nil {
			t.Errorf("a program that was run during the fork: %v", err)
		}
		listened <- r
	}()
	if !eventually(20*time.Second, func() bool { return original.run(t, "test", "-e", "/root/running").Success() }) {
		t.Fatal("the program does not run")
	}

	const n = 3
	children, err := forker.Fork(ctx, n)
	if err != nil || len(children) != n {
		t.Fatalf("fork: %d copies, %v", len(children), err)
	}
	original.ticks(t, "the original after the fork")
	original.write(t, "/root/after", "after")
	family := []*box{original}
	for _, c := range children {
		family = append(family, &box{c})
	}
	checkRandom(t, family)
	var wg sync.WaitGroup
	for i, b := range family[1:] {
		wg.Go(func() {
			s.checkRestored(t, b, sandbox.SnapshotFull)
			if r, err := b.exec(t, shell(fmt.Sprintf("echo %d >/root/own; sleep 1; cat /root/own", i))); err != nil || r.stdout != fmt.Sprintln(i) {
				t.Errorf("copy %d: %q, %v", i, r.stdout, err)
			}
		})
	}
	wg.Wait()
	if _, err := io.WriteString(mouth, "you\n"); err != nil {
		t.Error(err)
	}
	if r := <-listened; r.stdout != "heard you\n" {
		t.Errorf("the program of the original: %q, %v", r.stdout, r.Exit)
	}
	for i, b := range family[1:] {
		heard := func() bool { return b.run(t, "grep", "-x", "heard", "/root/heard").Success() }
		if !eventually(20*time.Second, heard) {
			t.Errorf("copy %d: the program that nobody listens to has not gone on", i)
		}
	}
	s.checkDiffer(t, family)

	// A copy is as good as an original.
	ctx, cancel = bounded(t) // all that took its time, on an emulated host
	defer cancel()
	again, err := family[1].Sandbox.(sandbox.Forker).Fork(ctx, 1)
	if err != nil || len(again) != 1 {
		t.Fatalf("fork a copy: %v", err)
	}
	if err := original.Close(); err != nil {
		t.Errorf("close the original: %v", err)
	}
	if err := family[1].Close(); err != nil {
		t.Errorf("close a copy: %v", err)
	}
	grandchild := &box{again[0]}
	if got := strings.TrimSpace(grandchild.read(t, "/root/own")); got != "0" {
		t.Errorf("the copy of a copy: %q", got)
	}
	s.checkRestored(t, grandchild, sandbox.SnapshotFull)
	s.checkDiffer(t, []*box{family[2], family[3], grandchild})
	if _, err := forker.Fork(ctx, 1); !errors.Is(err, sandbox.ErrClosed) {
		t.Errorf("fork of a closed sandbox: %v", err)
	}
	for _, b := range []*box{family[2], family[3], grandchild} {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}

// checkDiffer has each sandbox say what makes it another one.
func (s *suite) checkDiffer(t *testing.T, family []*box) {
	t.Helper()
	seen := map[string]string{}
	for i, b := range family {
		for line := range strings.Lines(b.must(t, "python3", "/tmp/identity.py")) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			key := name + " " + value
			if other, ok := seen[key]; ok {
				t.Errorf("sandbox %d has the %s of %s: %s", i, name, other, value)
			}
			seen[key] = fmt.Sprintf("sandbox %d", i)
		}
	}
}

// checkRandom compares what a program that never stopped has read of random numbers: what two sandboxes have in
// common is what was read before one was copied.
func checkRandom(t *testing.T, family []*box) {
	t.Helper()
	read := make([][]string, len(family))
	for i, b := range family {
		b.sh(t, "kill $(cat /tmp/spinner.pid)")
		read[i] = strings.Fields(b.read(t, "/tmp/random"))
	}
	for i := range read {
		for j := range i {
			common := 0
			for common < min(len(read[i]), len(read[j])) && read[i][common] == read[j][common] {
				common++
			}
			if common == 0 || common == len(read[i]) || common == len(read[j]) {
				t.Errorf("sandboxes %d and %d have %d of %d and %d random numbers in common", i, j, common, len(read[i]), len(read[j]))
				continue
			}
			own := map[string]bool{}
			for _, v := range read[i][common : len(read[i])-1] { // the last one may be cut
				own[v] = true
			}
			if slices.ContainsFunc(read[j][common:len(read[j])-1], func(v string) bool { return own[v] }) {
				t.Errorf("sandboxes %d and %d have read the same random number after they had parted", i, j)
			}
		}
	}
}
