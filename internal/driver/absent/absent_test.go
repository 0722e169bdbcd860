package absent

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

func TestAbsenceIsExplained(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var names []string
	for _, d := range Drivers() {
		names = append(names, d.System())
		d := d.(*driver)
		d.system.dirs = nil // a host that has Kata in /opt must not change the test
		info := d.Probe(t.Context())
		if info.Available || info.Reason == "" || info.Remedy == "" || info.System != d.System() {
			t.Errorf("Probe = %+v: want unavailable, with a reason and a remedy", info)
		}
		_, err := d.Create(t.Context(), sandbox.Spec{})
		var e *sandbox.Error
		if !errors.Is(err, sandbox.ErrUnavailable) || !errors.As(err, &e) {
			t.Fatalf("Create = %v, want ErrUnavailable", err)
		}
		if e.Detail != info.Reason || e.Remedy != info.Remedy || e.System != d.System() {
			t.Errorf("Create says %+v, Probe %+v", e, info)
		}
		if n, err := d.Sweep(t.Context()); n != 0 || err != nil {
			t.Errorf("Sweep = %d, %v", n, err)
		}
		for range 2 {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	want := "firecracker cloud-hypervisor kata"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("systems %q, want %q", got, want)
	}
}

func TestFoundProgramIsNamedWithItsVersion(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	path := filepath.Join(dir, "firecracker")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho Firecracker v1.10.1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range Drivers() {
		if d.System() != "firecracker" {
			continue
		}
		info := d.Probe(t.Context())
		if info.Available || !strings.Contains(info.Reason, path) || info.Version != "v1.10.1" {
			t.Errorf("Probe = %+v, want the path and the version", info)
		}
		return
	}
	t.Fatal("no firecracker")
}

func TestKataOutsidePath(t *testing.T) {
	d := &driver{lookPath: func(name string) (string, error) {
		if name == "/opt/kata/bin/containerd-shim-kata-v2" {
			return name, nil
		}
		return "", exec.ErrNotFound
	}}
	for _, s := range systems() {
		if s.name == "kata" {
			d.system = s
		}
	}
	info := d.Probe(t.Context())
	if !strings.Contains(info.Reason, "/opt/kata/bin/containerd-shim-kata-v2") || !strings.Contains(info.Remedy, "--docker-runtime kata") {
		t.Errorf("Probe = %+v", info)
	}
}

func TestCreateHonoursContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Drivers()[0].Create(ctx, sandbox.Spec{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Create = %v", err)
	}
}

func TestVersionOutputIsBounded(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "chatter")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nyes x | head -c 1000000\necho 1.2.3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := version(t.Context(), path, nil); got != "" {
		t.Errorf("version = %q from beyond the limit", got)
	}
}

func TestBecauseSaysWhy(t *testing.T) {
	d := Because("docker", &sandbox.Error{Err: sandbox.ErrUnavailable, Detail: "no place for leases", Remedy: "set AETHER_RUN"})
	info := d.Probe(t.Context())
	if info.System != "docker" || info.Available || info.Reason != "no place for leases" || info.Remedy != "set AETHER_RUN" {
		t.Errorf("Probe = %+v", info)
	}
	if _, err := d.Create(t.Context(), sandbox.Spec{}); !errors.Is(err, sandbox.ErrUnavailable) {
		t.Errorf("Create = %v", err)
	}
	if _, err := d.Sweep(t.Context()); !errors.Is(err, sandbox.ErrUnavailable) {
		t.Errorf("Sweep = %v", err)
	}
	if info := Because("docker", errors.New("why")).Probe(t.Context()); info.Reason != "why" {
		t.Errorf("Probe = %+v", info)
	}
}
