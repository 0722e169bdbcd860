package inside

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/probe/finding"
)

func networkProbes() []entry {
	return []entry{
		{finding.Probe{Name: "network.interfaces", Scope: finding.ScopeSandbox,
			Question: "Which network interfaces are there besides the loopback, with an address or a route?",
			Better:   "None: nothing can leave.",
			Worse:    "Any."}, interfaces},
		{finding.Probe{Name: "network.routes", Scope: finding.ScopeSandbox,
			Question: "Which routes lead out of the sandbox?",
			Better:   "None.",
			Worse:    "Any."}, routes},
		{finding.Probe{Name: "network.metadata", Scope: finding.ScopeSandbox,
			Question: "Can a cloud's metadata service (169.254.169.254) be reached? Judged by the routes; no packet is sent.",
			Better:   "No.",
			Worse:    "Yes: on many clouds it hands out the host's credentials."}, metadata},
		{finding.Probe{Name: "network.listeners", Scope: finding.ScopeKernel,
			Question: "Are services of others visible on the loopback or as abstract Unix sockets?",
			Better:   "None: the network namespace is the sandbox's own.",
			Worse:    "Any: services that trust the local host trust the guest."}, listeners},
	}
}

// route is a line of the kernel's routing tables that does not go to the loopback.
type route struct {
	device  string
	network string // hexadecimal, as the kernel writes it
	isAny   bool   // the default route
	covers  bool   // includes 169.254.169.254
}

// metadataAddr is 169.254.169.254 as /proc/net/route writes it, least significant byte first.
const metadataAddr = 0xfea9fea9

func readRoutes() ([]route, error) {
	v4, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return nil, err
	}
	v6, err := os.ReadFile("/proc/net/ipv6_route")
	if err != nil && !errors.Is(err, os.ErrNotExist) { // no IPv6
		return nil, err
	}
	return slices.Concat(parseRoutes4(string(v4)), parseRoutes6(string(v6))), nil
}

const (
	routeUp     = 0x1
	routeReject = 0x200
)

func parseRoutes4(text string) []route {
	var list []route
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 8 || f[0] == "lo" {
			continue
		}
		dst, err1 := strconv.ParseUint(f[1], 16, 32)
		flags, err2 := strconv.ParseUint(f[3], 16, 32)
		mask, err3 := strconv.ParseUint(f[7], 16, 32)
		if err1 != nil || err2 != nil || err3 != nil || flags&routeUp == 0 || flags&routeReject != 0 {
			continue // also the heading
		}
		list = append(list, route{device: f[0], network: f[1], isAny: mask == 0, covers: metadataAddr&mask == dst})
	}
	return list
}

func parseRoutes6(text string) []route {
	var list []route
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 10 || f[9] == "lo" {
			continue
		}
		flags, err := strconv.ParseUint(f[8], 16, 32)
		if err != nil || flags&routeUp == 0 || flags&routeReject != 0 || strings.HasPrefix(f[0], "ff") { // multicast
			continue
		}
		list = append(list, route{device: f[9], network: f[0] + "/" + f[1], isAny: f[1] == "00"})
	}
	return list
}

func routes() answer {
	list, err := readRoutes()
	if err != nil {
		return unknown(err)
	}
	var names []string
	for _, r := range list {
		name := r.network + " by " + r.device
		if r.isAny {
			name = "default by " + r.device
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return listed(slices.Compact(names), "routes")
}

func interfaces() answer {
	f, err := os.Open("/proc/net/dev")
	if err != nil {
		return unknown(err)
	}
	defer func() { _ = f.Close() }()
	list, err := readRoutes()
	if err != nil {
		return unknown(err)
	}
	routed := map[string]bool{}
	for _, r := range list {
		routed[r.device] = true
	}
	var names, idle []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, _, ok := strings.Cut(lines.Text(), ":")
		switch name = strings.TrimSpace(name); {
		case !ok || name == "lo":
		case routed[name]:
			names = append(names, name)
		default: // the kernel itself puts some into every new namespace (sit0, tunl0, ...)
			idle = append(idle, name)
		}
	}
	if err := lines.Err(); err != nil {
		return unknown(err)
	}
	a := listed(names, "in use")
	if len(idle) > 0 {
		slices.Sort(idle)
		a.detail = "without a route: " + strings.Join(idle, ", ")
	}
	return a
}

func metadata() answer {
	list, err := readRoutes()
	if err != nil {
		return unknown(err)
	}
	for _, r := range list {
		if r.covers {
			return answer{value: "a route leads there", verdict: finding.Worse, detail: "by " + r.device + "; not contacted"}
		}
	}
	if len(list) > 0 {
		return answer{value: "no route", verdict: finding.Better, detail: "other routes exist; not contacted"}
	}
	// With no route at all the attempt cannot leave the machine. A datagram socket's connect sends
	// nothing even where there is a route: it only looks it up.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return answer{value: "no route", verdict: finding.Better, detail: "no socket either: " + err.Error()}
	}
	defer func() { _ = unix.Close(fd) }()
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{169, 254, 169, 254}})
	if err == nil {
		return answer{value: "a route leads there", verdict: finding.Worse, detail: "the tables show none, but connect(2) found one"}
	}
	return answer{value: "unreachable", verdict: finding.Better, detail: err.Error()}
}

func listeners() answer {
	var names []string
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile("/proc/net/" + table)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return unknown(err)
		}
		for _, port := range listening(string(text)) {
			names = append(names, fmt.Sprintf("%s port %d", table, port))
		}
	}
	text, err := os.ReadFile("/proc/net/unix")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return unknown(err)
	}
	names = append(names, abstractSockets(string(text))...)
	slices.Sort(names)
	return listed(slices.Compact(names), "visible")
}

// listening returns the local ports of the sockets in state LISTEN.
func listening(text string) []uint64 {
	const stateListen = "0A"
	var ports []uint64
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != stateListen {
			continue
		}
		_, hex, _ := strings.Cut(f[1], ":")
		if port, err := strconv.ParseUint(hex, 16, 16); err == nil {
			ports = append(ports, port)
		}
	}
	return ports
}

// abstractSockets returns the names of listening Unix sockets that are reached by namespace, not by
// path.
func abstractSockets(text string) []string {
	const acceptsConnections = "00010000"
	var names []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) >= 8 && f[3] == acceptsConnections && strings.HasPrefix(f[7], "@") {
			names = append(names, "unix "+f[7])
		}
	}
	return names
}
