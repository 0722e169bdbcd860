package agentproto

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"time"

	"github.com/aethervm/aether/sandbox"
)

// Op is an operation.
type Op uint8

// Operations.
const (
	OpPing      Op = 1  // answers Done
	OpConfigure Op = 2  // Config; to be done before all else, and again after a restore
	OpExec      Op = 3  // Exec; input, output, Done with an Exit
	OpRead      Op = 4  // Path, Offset, Size; output, Done
	OpWrite     Op = 5  // Path, Perm; input, Done
	OpList      Op = 6  // Path; entries, Done
	OpStat      Op = 7  // Path; one entry, Done
	OpRemove    Op = 8  // Path; Done
	OpFreeze    Op = 9  // stops all programs, to take a snapshot; Done
	OpThaw      Op = 10 // lets them go on; Done
	OpStats     Op = 11 // Done with a Stats
	OpChanges   Op = 20 // Path, Size; changes, Done with a Walked
	OpExamine   Op = 21 // Wants; changes, Done
	OpConnect   Op = 22 // Path, of a Unix socket; input, output, Done when the peer has closed it
)

func (o Op) String() string {
	names := [...]string{OpPing: "ping", OpConfigure: "configure", OpExec: "exec", OpRead: "read",
		OpWrite: "write", OpList: "list", OpStat: "stat", OpRemove: "remove", OpFreeze: "freeze",
		OpThaw: "thaw", OpStats: "stats", OpChanges: "changes", OpExamine: "examine", OpConnect: "connect"}
	if int(o) < len(names) && names[o] != "" {
		return names[o]
	}
	return fmt.Sprintf("op %d", uint8(o))
}

// Request is what the host asks for. The fields in use depend on Op.
type Request struct {
	Op   Op
	Path string
	Perm fs.FileMode
	// Offset is where to begin, and Size how much to read at most, in bytes; a Size of 0 is no bound.
	Offset, Size int64
	Exec         Exec
	Config       Config
	// Wants are what OpExamine is about.
	Wants []Want
}

// Exec describes a program to run.
type Exec struct {
	Args, Env []string
	Dir       string // absolute
	// Timeout after which the program and its descendants are killed; 0 means none.
	Timeout time.Duration
	// Input tells that input will follow; otherwise standard input is empty.
	Input bool
	// Terminal, if not nil, has the program's standard streams be a terminal of its size, which a frame of
	// KindResize changes. On the way there is only its size.
	Terminal *sandbox.Terminal
}

// Config makes a guest somebody: what tells it from others that were booted or restored from the
// same bytes, and the limits of what runs in it.
type Config struct {
	Hostname string
	// Now is the wall clock. The zero time leaves it alone; in place of any other the Client sends the time at which it
	// sends.
	Now time.Time
	// Entropy is mixed into the kernel's random numbers, with full credit.
	Entropy []byte
	// Processes and MemoryBytes bound all programs taken together; 0 leaves the bound alone.
	Processes   int
	MemoryBytes int64
	// Network sets up the guest's network card. Without an address it leaves it alone.
	Network Network
	// MachineID, in a request to thaw, says that the machine is a copy of another one: this becomes its machine ID,
	// and its boot ID a new one. The zero value leaves both alone.
	MachineID [16]byte
}

// Network is the addresses of a guest's network card, IPv4.
type Network struct {
	// Address is the guest's, and its network.
	Address netip.Prefix
	// Gateway is the default route and the name server.
	Gateway netip.Addr
	// MAC is the card's hardware address.
	MAC [6]byte
}

func (n Network) append(b []byte) []byte {
	if !n.Address.IsValid() {
		return append(b, 0)
	}
	address, gateway := n.Address.Addr().As4(), n.Gateway.As4()
	b = append(b, 1)
	b = append(append(b, address[:]...), byte(n.Address.Bits()))
	return append(append(b, gateway[:]...), n.MAC[:]...)
}

func (d *decoder) network() (n Network) {
	if !d.bool() {
		return Network{}
	}
	var address, gateway [4]byte
	d.fill(address[:])
	bits := d.byte()
	d.fill(gateway[:])
	d.fill(n.MAC[:])
	n.Address, n.Gateway = netip.PrefixFrom(netip.AddrFrom4(address), int(bits)), netip.AddrFrom4(gateway)
	if bits > 32 {
		d.fail("network of more than 32 bits")
	}
	return n
}

// maxEntropy is more than any seed needs.
const maxEntropy = 1 << 10

// Append appends the encoded request to b.
func (r Request) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, Version)
	b = append(b, byte(r.Op))
	switch r.Op {
	case OpExec:
		b = appendStrings(b, r.Exec.Args)
		b = appendStrings(b, r.Exec.Env)
		b = appendString(b, r.Exec.Dir)
		b = binary.AppendUvarint(b, uint64(r.Exec.Timeout))
		b = appendBool(b, r.Exec.Input)
		b = appendBool(b, r.Exec.Terminal != nil)
		if r.Exec.Terminal != nil {
			b = AppendSize(b, r.Exec.Terminal.Size)
		}
	case OpRead:
		b = appendString(b, r.Path)
		b = binary.AppendUvarint(b, uint64(r.Offset))
		b = binary.AppendUvarint(b, uint64(r.Size))
	case OpList, OpStat, OpRemove, OpConnect:
		b = appendString(b, r.Path)
	case OpWrite:
		b = appendString(b, r.Path)
		b = binary.AppendUvarint(b, uint64(r.Perm.Perm()))
	case OpChanges:
		b = appendString(b, r.Path)
		b = binary.AppendUvarint(b, uint64(r.Size))
	case OpExamine:
		b = appendWants(b, r.Wants)
	case OpConfigure, OpThaw:
		c := r.Config
		b = appendString(b, c.Hostname)
		b = appendTime(b, c.Now)
		b = appendString(b, string(c.Entropy))
		b = binary.AppendUvarint(b, uint64(c.Processes))
		b = binary.AppendUvarint(b, uint64(c.MemoryBytes))
		b = c.Network.append(b)
		b = append(b, c.MachineID[:]...)
	}
	return b
}

// DecodeRequest decodes a request.
func DecodeRequest(payload []byte) (Request, error) {
	d := decoder{rest: payload}
	if v := d.uint(); d.err == nil && v != Version {
		return Request{}, fmt.Errorf("%w: the host speaks version %d, the agent version %d", ErrProtocol, v, Version)
	}
	r := Request{Op: Op(d.byte())}
	switch r.Op {
	case OpPing, OpFreeze, OpStats:
	case OpExec:
		r.Exec = Exec{
			Args: d.strings(), Env: d.strings(), Dir: d.string(),
			Timeout: time.Duration(d.bounded(math.MaxInt64)), Input: d.bool(),
		}
		if d.bool() {
			r.Exec.Terminal = &sandbox.Terminal{Size: d.size()}
		}
		if len(r.Exec.Args) == 0 {
			d.fail("no program")
		}
	case OpRead:
		r.Path, r.Offset, r.Size = d.string(), int64(d.bounded(math.MaxInt64)), int64(d.bounded(math.MaxInt64))
	case OpList, OpStat, OpRemove, OpConnect:
		r.Path = d.string()
	case OpWrite:
		r.Path, r.Perm = d.string(), fs.FileMode(d.bounded(uint64(fs.ModePerm)))
	case OpChanges:
		r.Path, r.Size = d.string(), int64(d.bounded(math.MaxInt64))
	case OpExamine:
		r.Wants = d.wants()
	case OpConfigure, OpThaw:
		r.Config = Config{Hostname: d.string(), Now: d.time(), Entropy: []byte(d.string())}
		r.Config.Processes = int(d.bounded(sandbox.MaxProcesses))
		r.Config.MemoryBytes = int64(d.bounded(math.MaxInt64))
		r.Config.Network = d.network()
		d.fill(r.Config.MachineID[:])
		if len(r.Config.Entropy) > maxEntropy || len(r.Config.Hostname) > 64 {
			d.fail("config out of range")
		}
	default:
		d.fail(unknownOperation(r.Op))
	}
	return r, d.end()
}

// unknownOperation is what an agent says of an operation that it does not have. Older ones are known by it.
func unknownOperation(op Op) string { return fmt.Sprintf("unknown operation %d", uint8(op)) }

// AppendSize appends the encoded size of a terminal to b.
func AppendSize(b []byte, size sandbox.TerminalSize) []byte {
	return binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(b, size.Rows), size.Cols)
}

// DecodeSize decodes the size of a terminal.
func DecodeSize(payload []byte) (sandbox.TerminalSize, error) {
	d := decoder{rest: payload}
	size := d.size()
	return size, d.end()
}

func (d *decoder) size() sandbox.TerminalSize {
	var b [4]byte
	d.fill(b[:])
	size := sandbox.TerminalSize{Rows: binary.LittleEndian.Uint16(b[:]), Cols: binary.LittleEndian.Uint16(b[2:])}
	if !size.Valid() {
		d.fail("size of a terminal out of range")
	}
	return size
}

// Exit is the result of OpExec.
type Exit struct {
	Code, Signal int
	TimedOut     bool
}

// Append appends the encoded result to b.
func (e Exit) Append(b []byte) []byte {
	b = binary.AppendVarint(b, int64(e.Code))
	b = binary.AppendUvarint(b, uint64(e.Signal))
	return appendBool(b, e.TimedOut)
}

// DecodeExit decodes the result of OpExec.
func DecodeExit(payload []byte) (Exit, error) {
	d := decoder{rest: payload}
	code := d.int()
	e := Exit{Code: int(code), Signal: int(d.bounded(127)), TimedOut: d.bool()}
	if code < -1 || code > 255 || (code == -1) != (e.Signal != 0) {
		d.fail("exit status out of range")
	}
	return e, d.end()
}

// Stats is the result of OpStats.
type Stats struct {
	MemoryBytes, CPUNanos int64
	Processes             int
}

// Append appends the encoded result to b.
func (s Stats) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(s.MemoryBytes))
	b = binary.AppendUvarint(b, uint64(s.CPUNanos))
	return binary.AppendUvarint(b, uint64(s.Processes))
}

// DecodeStats decodes the result of OpStats.
func DecodeStats(payload []byte) (Stats, error) {
	d := decoder{rest: payload}
	s := Stats{
		MemoryBytes: int64(d.bounded(math.MaxInt64)), CPUNanos: int64(d.bounded(math.MaxInt64)),
		Processes: int(d.bounded(math.MaxInt32)),
	}
	return s, d.end()
}

// AppendFileInfo appends an encoded directory entry to b.
func AppendFileInfo(b []byte, f sandbox.FileInfo) []byte {
	b = appendString(b, f.Name)
	b = binary.AppendUvarint(b, uint64(f.Size))
	b = binary.AppendUvarint(b, uint64(f.Mode))
	b = appendTime(b, f.ModTime)
	return appendString(b, f.Target)
}

// DecodeFileInfo decodes a directory entry.
func DecodeFileInfo(payload []byte) (sandbox.FileInfo, error) {
	d := decoder{rest: payload}
	f := sandbox.FileInfo{
		Name: d.string(), Size: int64(d.bounded(math.MaxInt64)), Mode: fs.FileMode(d.bounded(math.MaxUint32)),
		ModTime: d.time(), Target: d.string(),
	}
	return f, d.end()
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func (d *decoder) bool() bool {
	v := d.byte()
	if v > 1 {
		d.fail("bad boolean")
	}
	return v == 1
}

// appendTime encodes seconds and nanoseconds; the zero time is 0, 0.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0, 0)
	}
	b = binary.AppendVarint(b, t.Unix())
	return binary.AppendUvarint(b, uint64(t.Nanosecond()))
}

func (d *decoder) time() time.Time {
	sec, nsec := d.int(), d.bounded(999_999_999)
	if sec == 0 && nsec == 0 {
		return time.Time{}
	}
	return time.Unix(sec, int64(nsec))
}
