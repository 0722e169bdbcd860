package aethervm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/testenv"
	"github.com/aethervm/aether/sandbox"
)

// forks is how many copies are made at once: AETHER_TEST_FORKS, or a few.
func forks(t testing.TB) int {
	t.Helper()
	return testenv.Number(t, "AETHER_TEST_FORKS", 8)
}

// drawing draws random numbers and reads the clock without a break, also across a fork, which it knows by the boot ID. In a
// copy it ends after 50 draws, in the original when there is a file /root/stop, and writes what it has seen to the file that
// it is told. The number that it held when it was copied it may have got before: that is "edge".
const drawing = `import collections, json, os, sys, time
def boot():
    with open('/proc/sys/kernel/random/boot_id') as f: return f.read()
first, last, back, edge, n = boot(), time.monotonic_ns(), 0, '', 0
drawn, own = collections.deque(maxlen=5000), []
while len(own) < 50 and not (n % 64 == 0 and os.path.exists('/root/stop')):
    same = boot() == first
    v = os.getrandom(16).hex()
    now = time.monotonic_ns()
    back += now < last
    last = now
    if same:
        n += 1
        edge = v
        drawn.append(v)
    else:
        own.append(v)
    if n == 20: open(sys.argv[1] + '.begun', 'w').close()
with open(sys.argv[1] + '.new', 'w') as f: json.dump({'own': own or list(drawn), 'edge': edge, 'back': back, 'monotonic': last}, f)
os.rename(sys.argv[1] + '.new', sys.argv[1])
`

// drew is what drawing has written.
type drew struct {
	Own       []string `json:"own"`
	Edge      string   `json:"edge"`
	Back      int      `json:"back"`
	Monotonic int64    `json:"monotonic"`
}

// identity is a new program that says who its machine is, and what it gets from every source of random numbers; and then
// what time it is, as often as it is asked.
const identity = `import fcntl, json, os, random, secrets, socket, struct, sys, time, uuid
def text(name):
    with open(name) as f: return f.read().strip()
who = {'getrandom': os.getrandom(16).hex(), 'random': '%x' % random.getrandbits(128), 'secrets': secrets.token_hex(16),
    'uuid4': str(uuid.uuid4()), 'hash seed': str(hash('a word')), 'kernel uuid': text('/proc/sys/kernel/random/uuid'),
    'boot ID': text('/proc/sys/kernel/random/boot_id'), 'machine ID': text('/etc/machine-id') if os.path.exists('/etc/machine-id') else '',
    'host name': os.uname().nodename, 'MAC': text('/sys/class/net/eth0/address')}
with open('/dev/urandom', 'rb') as f: who['urandom'] = f.read(16).hex()
with open('/dev/random', 'rb') as f: who['/dev/random'] = f.read(16).hex()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    who['IP'] = socket.inet_ntoa(fcntl.ioctl(s.fileno(), 0x8915, struct.pack('256s', b'eth0'))[20:24])
try:
    import ssl
    who['OpenSSL'] = ssl.RAND_bytes(16).hex()
except ImportError: pass
try:
    import numpy
    who['numpy'] = numpy.random.default_rng().bytes(16).hex()
except ImportError: pass
print(json.dumps(who), flush=True)
for line in sys.stdin: print(time.time_ns(), time.monotonic_ns(), flush=True)
`

const theOriginal = "the original"

// Many copies of one sandbox whose programs draw random numbers meanwhile: each is another one than the rest, in all that
// makes a machine one of its own, and knows what time it is.
func TestForkMany(t *testing.T) {
	d := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute+time.Duration(forks(t))*20*time.Second)
	defer cancel()
	raw, err := d.Create(ctx, sandbox.Spec{Image: testenv.Image(t), VCPUs: vcpus(t), Network: sandbox.NetworkOutbound, Egress: []string{"service.example:80"}})
	if err != nil {
		t.Fatal(err)
	}
	original := raw.(*Sandbox)
	programs := []string{"/root/a"}
	for name, text := range map[string]string{"/root/drawing.py": drawing, "/root/identity.py": identity, "/root/word": "before\n"} {
		if err := original.WriteFile(ctx, name, bytes.NewReader([]byte(text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range programs {
		sh(t, original, "python3 /root/drawing.py "+p+" >/dev/null 2>"+p+".err </dev/null &")
	}
	for _, p := range programs {
		sh(t, original, "until [ -e "+p+".begun ]; do sleep 0.05; done; python3 -c 'import time; print(time.monotonic_ns())' >/root/monotonic")
	}
	n := forks(t)
	begin := time.Now()
	taken, err := original.branch(ctx, "fork", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	// What it goes on drawing would take time of the copies' processor.
	if err := original.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	list, err := original.original(taken).copies(ctx, "fork", n)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d copies after %v", n, time.Since(begin))
	begin = time.Now()
	everybody := newDistinct(t)
	var edges sync.Map
	low, high := time.Hour, -time.Hour
	for i, c := range list {
		name := fmt.Sprintf("copy %d", i)
		noted := number(t, sh(t, c, "cat /root/monotonic"))
		for _, p := range programs {
			checkDrawn(t, everybody, name, p, sh(t, c, "until [ -s "+p+" ]; do sleep 0.05; done; cat "+p), noted, &edges)
		}
		if got := sh(t, c, "cat /root/word; hostname"); got != "before\n"+c.ID() {
			t.Errorf("%s: %q", name, got)
		}
		least, most := checkIdentity(ctx, t, everybody, c, name, noted)
		low, high = min(low, least), max(high, most)
	}
	t.Logf("their clocks are %v to %v ahead of the host's", low, high)
	t.Logf("all have been asked after %v; they differ in %v", time.Since(begin), everybody.kinds())
	if err := original.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if err := original.WriteFile(ctx, "/root/stop", bytes.NewReader(nil), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		checkDrawn(t, everybody, theOriginal, p, sh(t, original, "until [ -s "+p+" ]; do sleep 0.05; done; cat "+p), 0, nil)
	}
	checkIdentity(ctx, t, everybody, original, theOriginal, 0)
	begin = time.Now()
	if err := closeSandboxes(list); err != nil {
		t.Error(err)
	}
	t.Logf("closed after %v", time.Since(begin))
}

func number(t *testing.T, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// distinct holds what was seen, by kind, and of whom.
type distinct struct {
	t    *testing.T
	seen map[string]map[string]string
}

func newDistinct(t *testing.T) *distinct { return &distinct{t, map[string]map[string]string{}} }

// add takes what only one may have.
func (d *distinct) add(kind, value, who string) {
	d.t.Helper()
	if value == "" {
		d.t.Errorf("%s has no %s", who, kind)
	}
	if d.seen[kind] == nil {
		d.seen[kind] = map[string]string{}
	}
	if other, ok := d.seen[kind][value]; ok {
		d.t.Errorf("%s: %s and %s both have %s", kind, other, who, value)
	}
	d.seen[kind][value] = who
}

func (d *distinct) kinds() []string { return slices.Sorted(maps.Keys(d.seen)) }

// checkDrawn looks at what the program of a copy has drawn while and after it was copied.
func checkDrawn(t *testing.T, everybody *distinct, who, program, text string, noted int64, edges *sync.Map) {
	t.Helper()
	var d drew
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatalf("%s, %s: %q: %v", who, program, text, err)
	}
	if d.Back != 0 || d.Monotonic < noted {
		t.Errorf("%s, %s: the monotonic clock has gone back %d times; it is %d, was %d", who, program, d.Back, d.Monotonic, noted)
	}
	if edges != nil {
		if len(d.Own) < 50 {
			t.Errorf("%s, %s: %d draws", who, program, len(d.Own))
		}
		if _, ok := edges.LoadOrStore(d.Edge, who); ok {
			t.Logf("%s, %s: had a number in its hands when it was copied", who, program)
		}
	}
	for _, v := range d.Own {
		if _, ok := everybody.seen["draws"][v]; ok || edges != nil { // the original has others, most from long before
			everybody.add("draws", v, who)
		}
	}
}

// checkIdentity asks a sandbox who it is, and what time. It returns how far its clock may be ahead of the host's.
func checkIdentity(ctx context.Context, t *testing.T, everybody *distinct, b sandbox.Sandbox, name string, noted int64) (least, most time.Duration) {
	t.Helper()
	questions, ask := io.Pipe()
	answers, told := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		exit, err := b.Exec(ctx, sandbox.Cmd{Args: []string{"python3", "/root/identity.py"}, Stdin: questions, Stdout: told})
		if err == nil && !exit.Success() {
			err = fmt.Errorf("%+v", exit)
		}
		_ = told.CloseWithError(io.ErrUnexpectedEOF)
		_ = questions.Close()
		ended <- err
	}()
	lines := bufio.NewScanner(answers)
	who := map[string]string{}
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &who) != nil {
		_ = ask.Close()
		t.Fatalf("%s says %q: %v, %v", name, lines.Text(), lines.Err(), <-ended)
	}
	for kind, v := range who {
		if kind == "machine ID" && v == "" && name == theOriginal {
			continue // the image has none
		}
		everybody.add(kind, v, name)
	}
	// By the answers that say most: each was read between its question and its arrival.
	const slack = 50 * time.Millisecond
	least, most = -time.Hour, time.Hour
	last := noted
	for range 5 {
		begin := time.Now()
		if _, err := io.WriteString(ask, "\n"); err != nil || !lines.Scan() {
			t.Fatalf("%s: no time: %v, %v", name, err, lines.Err())
		}
		end := time.Now()
		var wall, monotonic int64
		if _, err := fmt.Sscan(lines.Text(), &wall, &monotonic); err != nil {
			t.Fatal(err)
		}
		least, most = max(least, time.Unix(0, wall).Sub(end)), min(most, time.Unix(0, wall).Sub(begin))
		if monotonic < last {
			t.Errorf("%s: the monotonic clock went from %d to %d", name, last, monotonic)
		}
		last = monotonic
	}
	if least > slack || most < -slack || least > most+time.Millisecond {
		t.Errorf("%s: its clock is %v to %v ahead of the host's", name, least, most)
	}
	_ = ask.Close()
	if err := <-ended; err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return least, most
}
