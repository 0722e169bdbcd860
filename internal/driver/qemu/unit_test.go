package qemu

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestArguments(t *testing.T) {
	c := machineConfig{id: "abc", accelerator: accelTCG, vcpus: 2, memoryMiB: 256, tscKHz: 2_600_000}
	args := c.arguments(false)
	line := strings.Join(args, " ")
	for _, want := range []string{"-name aether-abc", "-smp 2", "-m 352M", "tcg,", "tsc_early_khz=2600000", "spawn=deny", "-- init"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is missing in %s", want, line)
		}
	}
	for _, bad := range []string{"-netdev", "-incoming", "host"} {
		if slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, bad) }) {
			t.Errorf("%q in %s", bad, line)
		}
	}
	c.accelerator = accelKVM
	line = strings.Join(c.arguments(true), " ")
	for _, want := range []string{"-accel kvm", "-cpu host", "-incoming fd:8"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is missing in %s", want, line)
		}
	}
	if strings.Contains(line, "mitigations=off") || strings.Contains(line, "norandmaps") {
		t.Errorf("a guest under KVM is not hardened: %s", line)
	}
}

func TestTrialCache(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "trial.json")
	if _, ok := cachedTrial(path, "k"); ok {
		t.Error("an answer without a trial")
	}
	want := accelerator{Name: accelTCG, Reason: "why"}
	storeTrial(path, "k", want)
	if got, ok := cachedTrial(path, "k"); !ok || got != want {
		t.Errorf("got %+v, %v", got, ok)
	}
	if _, ok := cachedTrial(path, "other boot"); ok {
		t.Error("the answer of another boot is used")
	}
	for _, bad := range []string{"", "{", `{"key":"k"}`} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok := cachedTrial(path, "k"); ok {
			t.Errorf("%q was taken for an answer", bad)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestForcedAccelerator(t *testing.T) {
	for value, want := range map[string]string{"kvm": accelKVM, "tcg": accelTCG, "hvf": ""} {
		t.Setenv(envAccelerator, value)
		a, err := chooseAccelerator(t.Context(), "qemu", nil)
		if a.Name != want || (want == "") != (err != nil) {
			t.Errorf("%s: %+v, %v", value, a, err)
		}
	}
}

func TestMigrationStatus(t *testing.T) {
	var m migration
	if err := json.Unmarshal([]byte(`{"status":"failed","error-desc":"disk full"}`), &m); err != nil || m.Status != "failed" || m.ErrorDesc != "disk full" {
		t.Errorf("got %+v, %v", m, err)
	}
}
