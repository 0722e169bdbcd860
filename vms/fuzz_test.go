package vms_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/aethervm/aether/vms"
)

func FuzzParse(f *testing.F) {
	for _, vm := range vms.All() {
		f.Add(vm.DisplayName())
	}
	f.Add("dokcer")
	f.Add("\xff")
	f.Fuzz(func(t *testing.T, name string) {
		vm, err := vms.Parse(name)
		if err == nil != vm.Valid() {
			t.Fatalf("Parse(%q) = %v, %v", name, vm, err)
		}
		if err != nil {
			var unknown *vms.UnknownNameError
			if !errors.As(err, &unknown) || unknown.Name != name {
				t.Fatalf("Parse(%q): %v", name, err)
			}
			return
		}
		if again, err := vms.Parse(vm.Name()); err != nil || again != vm {
			t.Fatalf("Parse(%q) = %v, whose name gives %v, %v", name, vm, again, err)
		}
	})
}

// FuzzUnmarshal: what is read from a file or a client is refused or can be written again.
func FuzzUnmarshal(f *testing.F) {
	data, err := json.Marshal(vms.Docker.Profile())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"vm":"kvm","axes":{"density":1e999}}`))
	f.Add([]byte(`{"vm":0}`))
	f.Add([]byte(`{"vm":"docker","evidence":[{"axis":"density","kind":"judged","metric":"density.idle_mib","value":-0}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var p vms.Profile
		if json.Unmarshal(data, &p) != nil {
			return
		}
		var b strings.Builder
		if err := vms.WriteProfile(&b, p); err != nil {
			t.Fatal(err)
		}
		scored := vms.NewProfile(p.VM, p.Evidence)
		if !(scored.Fitness >= 0 && scored.Fitness <= 1) {
			t.Fatalf("fitness %v", scored.Fitness)
		}
		// A key that is absent leaves a zero value, which is invalid and not written.
		valid := p.VM.Valid() && !slices.ContainsFunc(p.Evidence, func(e vms.Evidence) bool {
			return !e.Axis.Valid() || !e.Kind.Valid()
		})
		if _, err := json.Marshal(p); err == nil != valid {
			t.Fatalf("valid %v, but writing it again: %v", valid, err)
		}
	})
}

func FuzzUnmarshalText(f *testing.F) {
	f.Add([]byte("fc"))
	f.Add([]byte("agent control"))
	f.Add([]byte("judged"))
	f.Add([]byte("multi-tenant"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var vm vms.VM
		var axis vms.Axis
		var kind vms.Kind
		var weights vms.Weights
		if err := vm.UnmarshalText(text); err == nil != vm.Valid() {
			t.Errorf("VM: %v, %v", vm, err)
		}
		if err := axis.UnmarshalText(text); err == nil != axis.Valid() {
			t.Errorf("Axis: %v, %v", axis, err)
		}
		if err := kind.UnmarshalText(text); err == nil != kind.Valid() {
			t.Errorf("Kind: %v, %v", kind, err)
		}
		if err := weights.UnmarshalText(text); err != nil && weights != vms.Equal() {
			t.Errorf("Weights: %v, %v", weights, err)
		}
	})
}
