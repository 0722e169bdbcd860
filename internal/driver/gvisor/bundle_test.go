package gvisor

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

var update = flag.Bool("update", false, "write the golden files anew")

func testBundle(t *testing.T) bundle {
	t.Helper()
	spec, err := sandbox.Spec{
		Image: sandbox.Image{Rootfs: "/images/debian/rootfs", Env: []string{"LANG=C.UTF-8", "A=image"}},
		VCPUs: 2, MemoryMiB: 512, Processes: 100,
		Env: []string{"A=spec"},
	}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return bundle{id: "abcdefghij234567", spec: spec, agent: "/agents/aether-agent", cgroup: groupFor("lease", "abcdefghij234567"), swap: true}
}

func TestBundleGolden(t *testing.T) {
	dir := t.TempDir()
	if err := testBundle(t).write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "config.json")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("config.json differs from %s; look at it and run with -update:\n%s", golden, got)
	}
}

func TestBundleKeepsTheHostSafe(t *testing.T) {
	b := testBundle(t)
	b.swap = false
	c := b.config()
	if c.Linux.Resources.Memory.Swap != nil {
		t.Error("swap is limited where the kernel cannot")
	}
	if *c.Linux.Resources.Memory.Limit != 512<<20 || *c.Linux.Resources.CPU.Quota != 200_000 || c.Linux.Resources.Pids.Limit < 100 {
		t.Errorf("limits: %+v", c.Linux.Resources)
	}
	if !c.Process.NoNewPrivileges || c.Process.Terminal {
		t.Errorf("process: %+v", c.Process)
	}
	for _, m := range c.Mounts {
		if m.Type == "bind" && !bytes.Contains([]byte(joined(m.Options)), []byte(" ro ")) {
			t.Errorf("a host path can be written to: %+v", m)
		}
	}
	info, err := os.Stat(writeBundle(t, b))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		t.Errorf("others can read the environment: %v", info.Mode())
	}
}

func joined(options []string) string {
	s := " "
	for _, o := range options {
		s += o + " "
	}
	return s
}

func writeBundle(t *testing.T, b bundle) string {
	t.Helper()
	dir := t.TempDir()
	if err := b.write(dir); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "config.json")
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(content) {
		t.Fatalf("not JSON: %s", content)
	}
	return name
}
