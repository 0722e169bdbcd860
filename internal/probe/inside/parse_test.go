package inside

import (
	"slices"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/mountinfo"
)

func TestParseStat(t *testing.T) {
	p, ok := parseStat([]byte("42 (a (b) c) S 7 42 42 0"))
	if !ok || p != (process{42, 7, "a (b) c"}) {
		t.Errorf("%+v, %v", p, ok)
	}
	for _, bad := range []string{"", "()", "42 (x", "42 x) S 1", "42 (x) S", "x (x) S 1"} {
		if p, ok := parseStat([]byte(bad)); ok {
			t.Errorf("%q gave %+v", bad, p)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (a (b) c) S 7 42"))
	f.Add([]byte(")("))
	f.Fuzz(func(_ *testing.T, stat []byte) { parseStat(stat) })
}

func TestForeign(t *testing.T) {
	all := []process{{1, 0, "init"}, {2, 0, "kthreadd"}, {3, 2, "kworker"}, {10, 1, "shell"}, {11, 10, "probe"}, {12, 11, "child"}, {20, 1, "other"}, {30, 31, "loop"}, {31, 30, "loop"}}
	var names []string
	for _, p := range foreign(all, 11) {
		names = append(names, p.name)
	}
	if want := []string{"kthreadd", "kworker", "other", "loop", "loop"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}

func TestRoutes(t *testing.T) {
	v4 := parseRoutes4("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
		"eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n" +
		"eth1\t0000FEA9\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n" + // 169.254.0.0/16
		"eth2\t0000000A\t00000000\t0000\t0\t0\t0\t000000FF\t0\t0\t0\n" + // down
		"*\t0000000A\t00000000\t0201\t0\t0\t0\t000000FF\t0\t0\t0\n" + // rejects
		"lo\t0000007F\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n")
	want := []route{{"eth0", "00000000", true, true}, {"eth0", "000200C0", false, false}, {"eth1", "0000FEA9", false, true}}
	if !slices.Equal(v4, want) {
		t.Errorf("%+v", v4)
	}
	zero := strings.Repeat("0", 32)
	v6 := parseRoutes6("fd00" + strings.Repeat("0", 28) + " 40 " + zero + " 00 " + zero + " 00000100 00000001 00000000 00000001 eth0\n" +
		zero + " 00 " + zero + " 00 " + zero + " ffffffff 00000001 00000000 00200200 lo\n" +
		"ff00" + strings.Repeat("0", 28) + " 08 " + zero + " 00 " + zero + " 00000100 00000001 00000000 00000001 eth0\n" +
		"garbage\n")
	if len(v6) != 1 || v6[0].device != "eth0" || v6[0].isAny {
		t.Errorf("%+v", v6)
	}
}

func TestSockets(t *testing.T) {
	ports := listening("  sl  local_address rem_address   st\n   0: 0100007F:1F90 00000000:0000 0A 0\n   1: 0100007F:1F91 0100007F:0050 01 0\n")
	if !slices.Equal(ports, []uint64{8080}) {
		t.Errorf("%v", ports)
	}
	names := abstractSockets("Num RefCount Protocol Flags Type St Inode Path\n" +
		"0: 00000002 00000000 00010000 0001 01 12 @containerd-shim\n0: 00000002 00000000 00010000 0001 01 13 /run/x.sock\n0: 00000003 00000000 00000000 0001 03 14 @client\n")
	if !slices.Equal(names, []string{"unix @containerd-shim"}) {
		t.Errorf("%q", names)
	}
}

func TestMounts(t *testing.T) {
	var list []mountinfo.Mount
	for _, line := range []string{
		"1 0 0:30 / / rw - overlay overlay rw,lowerdir=/var/lib/docker/l/A:/var/lib/docker/l/B,upperdir=/var/lib/docker/up,workdir=/var/lib/docker/work",
		"2 1 0:31 / /proc rw - proc proc rw",
		"3 1 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory",
		"4 1 8:1 /var/lib/docker/containers/abc/hosts /etc/hosts rw - ext4 /dev/sda1 rw",
		"5 1 0:33 / /srv rw - virtiofs share rw",
		"6 1 0:34 / /tools ro - fuse.sshfs x rw",
		"7 1 8:2 / /data rw - ext4 /dev/sda2 rw",
	} {
		m, ok := mountinfo.Parse(line)
		if !ok {
			t.Fatal(line)
		}
		list = append(list, m)
	}
	if got, want := sharesOf(list), []string{"virtiofs on /srv", "fuse.sshfs on /tools"}; !slices.Equal(got, want) {
		t.Errorf("shares: %q", got)
	}
	want := []string{"lowerdir of /", "upperdir of /", "workdir of /", "/etc/hosts of /dev/sda1 is /var/lib/docker/containers/abc/hosts"}
	if got := hostPathsOf(list); !slices.Equal(got, want) {
		t.Errorf("host paths: %q", got)
	}
}
