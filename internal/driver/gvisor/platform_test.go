package gvisor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tried returns a stand-in for try, which fails but on the platforms in works, and what it tried.
func tried(works ...string) (func(context.Context, *runtime) error, *[]string) {
	var list []string
	return func(_ context.Context, rt *runtime) error {
		list = append(list, rt.platform)
		if !slices.Contains(works, rt.platform) {
			return errors.New("it does not start")
		}
		return nil
	}, &list
}

func TestChoosePlatform(t *testing.T) {
	t.Setenv("AETHER_STATE", t.TempDir())
	t.Setenv("AETHER_GVISOR_PLATFORM", "")
	rt := &runtime{path: "/bin/runsc", version: "v1"}
	check := func(rt *runtime, works []string, want string, wantTried ...string) {
		t.Helper()
		try, list := tried(works...)
		got, err := choosePlatform(t.Context(), rt, try)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("chose %q, %v; want %q", got, err, want)
		}
		if !slices.Equal(*list, wantTried) {
			t.Errorf("tried %q, want %q", *list, wantTried)
		}
	}
	check(rt, nil, "", "systrap", "kvm", "ptrace") // not kept
	check(rt, []string{"ptrace"}, "ptrace", "systrap", "kvm", "ptrace")
	check(rt, []string{"systrap"}, "ptrace") // kept
	check(&runtime{path: rt.path, version: "v2"}, []string{"systrap", "kvm"}, "systrap", "systrap")
	check(rt, []string{"systrap"}, "systrap", "systrap") // of the last version only

	// A choice from before the last boot does not count.
	name, err := choiceFile()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(strings.Replace(string(content), bootID(), "another", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	check(rt, []string{"kvm"}, "kvm", "systrap", "kvm")

	// Neither does one that cannot be read, or that names what no runsc has.
	for _, bad := range []string{"", "{", `{"boot_id":"` + bootID() + `","path":"/bin/runsc","version":"v1","platform":"x"}`} {
		if err := os.WriteFile(name, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		check(rt, []string{"systrap"}, "systrap", "systrap")
	}

	// What the user asks for is the only one tried, and what was kept does not overrule it.
	t.Setenv("AETHER_GVISOR_PLATFORM", "kvm")
	check(rt, []string{"systrap"}, "", "kvm")
	t.Setenv("AETHER_GVISOR_PLATFORM", "zircon")
	check(rt, []string{"systrap"}, "")

	if left, err := filepath.Glob(filepath.Join(filepath.Dir(name), ".*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

func TestChoosePlatformStopsWithTheContext(t *testing.T) {
	t.Setenv("AETHER_STATE", t.TempDir())
	t.Setenv("AETHER_GVISOR_PLATFORM", "")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := choosePlatform(ctx, &runtime{}, func(context.Context, *runtime) error {
		cancel()
		return errors.New("broken off")
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestProbeWithoutRunsc(t *testing.T) {
	t.Setenv("AETHER_STATE", t.TempDir())
	t.Setenv("AETHER_RUNSC", "")
	t.Setenv("PATH", t.TempDir())
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	info := d.Probe(t.Context())
	if info.Available || info.Reason == "" || !strings.Contains(info.Remedy, "make peers") || info.System != System {
		t.Errorf("got %+v", info)
	}
}

func TestProbeWithAnotherProgram(t *testing.T) {
	name := filepath.Join(t.TempDir(), "runsc")
	if err := os.WriteFile(name, []byte("#!/bin/sh\necho I am no runsc\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AETHER_RUNSC", name)
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if info := d.Probe(t.Context()); info.Available || !strings.Contains(info.Reason, "I am no runsc") {
		t.Errorf("got %+v", info)
	}
}
