package host

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReadKnowsOrSaysWhyNot(t *testing.T) {
	f := Read(t.Context())
	for fact, known := range map[string]bool{
		"cpu.model": f.CPU.Model != "", "cpu.vendor": f.CPU.Vendor != "", "memory_bytes": f.MemoryBytes > 0,
		"kernel": f.Kernel.Release != "" && f.Kernel.Version != "", "os": f.OS != "", "cgroup": f.Cgroup.Version != "",
		"boot_id": f.BootID != "", "boot_time": f.BootTime > 0, "virtualisation.guest": f.Virtualisation.Guest != nil,
		"kvm": f.KVM.State != "",
	} {
		if _, unknown := f.Unknown[fact]; known == unknown {
			t.Errorf("%s: known %v, listed as unknown %v", fact, known, unknown)
		}
	}
	if f.CPU.Cores != runtime.NumCPU() {
		t.Errorf("%d cores", f.CPU.Cores)
	}
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", text)
	var back Facts
	if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(f, back) {
		t.Errorf("JSON does not come back as it went: %v\n%+v\n%+v", err, f, back)
	}
}

func TestPSSFollowsUse(t *testing.T) {
	before, err := PSS(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	// Not of Go's heap, of which the race detector keeps a shadow that counts as well.
	block, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(block); err != nil {
			t.Error(err)
		}
	}()
	for i := 0; i < size; i += 4096 {
		block[i] = 1
	}
	after, err := PSS(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if grown := after - before; grown < size*9/10 || grown > 2*size {
		t.Errorf("PSS has grown by %d bytes after %d were written", grown, size)
	}
	if _, err := PSS(1 << 30); !os.IsNotExist(err) {
		t.Errorf("PSS of no process: %v", err)
	}
}

func TestParseMemory(t *testing.T) {
	m, err := ParseMemory(strings.NewReader("MemTotal:       100 kB\nHugePages_Total:  3\nX: -1 kB\nY: 99999999999999999999 kB\n00400000-7ff rollup\nPss:    7 kB\n"))
	if err != nil || !reflect.DeepEqual(m, Memory{"MemTotal": 100 << 10, "Pss": 7 << 10}) {
		t.Errorf("%v, %v", m, err)
	}
}

func TestReadCgroup(t *testing.T) {
	v2 := t.TempDir()
	if err := os.WriteFile(filepath.Join(v2, "cgroup.controllers"), []byte("cpu memory\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const memory = "30 25 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
	const cpu = "31 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
	const systemd = "32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
	unified := "33 25 0:29 / " + v2 + " rw - cgroup2 cgroup2 rw,nsdelegate\n"
	for _, tt := range []struct {
		name, text  string
		version     string
		controllers []string
	}{
		{"none", "1 0 8:1 / / rw - ext4 /dev/sda rw\n", "none", nil},
		{"v1", memory + cpu, "v1", []string{"cpu", "cpuacct", "memory"}},
		{"hybrid", memory + systemd + unified, "hybrid", []string{"cpu", "memory"}},
		{"v2", unified, "v2", []string{"cpu", "memory"}},
		{"v2 with named v1", systemd + unified, "v2", []string{"cpu", "memory"}},
	} {
		file := filepath.Join(t.TempDir(), "mountinfo")
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := readCgroup(file)
		if err != nil || c.Version != tt.version || !reflect.DeepEqual(c.Controllers, tt.controllers) {
			t.Errorf("%s: %+v, %v", tt.name, c, err)
		}
	}
}

func FuzzParseMemory(f *testing.F) {
	f.Add("MemTotal: 1 kB\n")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseMemory(strings.NewReader(text))
		for k, v := range m {
			if v < 0 {
				t.Fatalf("%s is %d, %v", k, v, err)
			}
		}
	})
}
